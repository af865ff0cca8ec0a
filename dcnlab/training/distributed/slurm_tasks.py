"""The ranks of a run in the tasks of one srun, for Lightning: a task for each rank, or one for each machine."""

from __future__ import annotations

import os
import signal

from lightning_fabric.plugins.environments import ClusterEnvironment, LightningEnvironment, SLURMEnvironment

from dcnlab.training.distributed import slurm_variables

_FIRST_PORT, _PORTS, _STEPS_APART = 15000, 10000, 97
"""Ports as Lightning chooses them for a job; those of a job's steps differ."""


class SlurmTasks(SLURMEnvironment):
    """Tells ranks, world size, address and port from the variables of the step, not from those of the whole job."""

    def __init__(self) -> None:
        ClusterEnvironment.__init__(self)  # SLURMEnvironment's own refuses what `check_ranks` accepts
        # Lightning would requeue the job with another checkpoint file, which `dcnlab resume` does not know.
        self.auto_requeue, self.requeue_signal = False, signal.SIGUSR1

    def world_size(self) -> int:
        """The number of tasks."""
        return slurm_variables.srun_tasks()

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        """Accept what `check_ranks` has accepted."""

    @property
    def main_address(self) -> str:
        """MASTER_ADDR, or the first machine of the step."""
        nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_NODELIST", "127.0.0.1")
        return os.environ.setdefault("MASTER_ADDR", self.resolve_root_node_address(nodes))

    @property
    def main_port(self) -> int:
        """MASTER_PORT, or one for this step of the job."""
        job, step = (slurm_variables.number(name) or 0 for name in ("JOB_ID", "STEP_ID"))
        port = _FIRST_PORT + (job + _STEPS_APART * step) % _PORTS
        return int(os.environ.setdefault("MASTER_PORT", str(port)))


class SlurmMachines(LightningEnvironment):
    """One task on each machine: the task is the machine's first rank, and Lightning starts the others from it.

    They read the variables that torchrun's users set on each machine, which this sets from those of the step.
    """

    def __init__(self) -> None:
        super().__init__()
        tasks = SlurmTasks()
        os.environ |= {"MASTER_ADDR": tasks.main_address, "MASTER_PORT": str(tasks.main_port)}
        os.environ["NODE_RANK"] = str(tasks.node_rank())
