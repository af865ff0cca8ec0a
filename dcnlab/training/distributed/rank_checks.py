"""Checks that the ranks which srun, torchrun or a batch script started are those that a config asks for."""

from __future__ import annotations

import os

from dcnlab.io.errors import ConfigError
from dcnlab.training.distributed import slurm_variables
from dcnlab.training.distributed.slurm_variables import number


def under_srun() -> bool:
    """Whether the ranks of the run are the tasks of one srun, and not torchrun's."""
    return "TORCHELASTIC_RUN_ID" not in os.environ and slurm_variables.srun_tasks() > 1


def starts_ranks_of_machine(devices: int | str) -> bool:
    """Whether this process is srun's only task on its machine, and starts the machine's other ranks.

    Args:
        devices: `trainer.devices`.
    """
    return under_srun() and devices != 1 and set(slurm_variables.tasks_per_node()) == {1}


def starts_own_ranks_in_slurm() -> bool:
    """Whether Lightning would take this process for a task of srun, and it is none."""
    return "SLURM_NTASKS" in os.environ and "TORCHELASTIC_RUN_ID" not in os.environ and not under_srun()


def several_processes() -> bool:
    """Whether a launcher started several processes for the run."""
    world = os.environ.get("WORLD_SIZE", "1")
    return (world.isdecimal() and int(world) > 1) or slurm_variables.srun_tasks() > 1


def check_ranks(devices: int, num_nodes: int) -> None:
    """Check the ranks that a launcher started, if one did.

    Args:
        devices: ranks on a machine.
        num_nodes: machines.

    Raises:
        ConfigError: their number differs, or a variable of the launcher is wrong; names the variable and the key.
    """
    if under_srun():
        _check_tasks(devices, num_nodes)
        return
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        _check_single_task(devices, num_nodes)
    _check_world_size(devices, num_nodes)


def _check_tasks(devices: int, num_nodes: int) -> None:
    """Check the tasks of the srun that started this process."""
    tasks, nodes = slurm_variables.srun_tasks(), number("STEP_NUM_NODES") or number("NNODES") or 1
    for name in ("PROCID", "LOCALID", "NODEID"):
        if number(name) is None:
            raise ConfigError(f"SLURM_NTASKS is {tasks} and SLURM_{name} is not set; start the command by srun")
    each = slurm_variables.tasks_per_node() or [tasks // nodes] * nodes
    if len(set(each)) > 1:
        raise ConfigError(
            f"SLURM_STEP_TASKS_PER_NODE is {','.join(map(str, each))}; each machine needs the same number: "
            f"state --ntasks-per-node={devices} in place of --ntasks"
        )
    if starts_ranks_of_machine(devices) and nodes == num_nodes:
        return
    if (nodes, each[0], tasks) != (num_nodes, devices, devices * num_nodes):
        raise ConfigError(
            f"srun started {_tasks(tasks)} on {_machines(nodes)}, and {_asked(devices, num_nodes)}; state "
            f"trainer.devices={each[0]} trainer.num_nodes={nodes}, or {_srun(devices, num_nodes)}"
        )


def _check_single_task(devices: int, num_nodes: int) -> None:
    """Check that this process of a SLURM job can start all ranks, and that the job has no other number of tasks."""
    tasks = number("NTASKS") or 1
    in_job = "SLURM_JOB_ID" in os.environ or "SLURM_NTASKS" in os.environ
    if in_job and num_nodes > 1 and not any(name in os.environ for name in ("NODE_RANK", "GROUP_RANK", "RANK")):
        raise ConfigError(
            f"one process of SLURM job {os.environ.get('SLURM_JOB_ID')} started, and {_asked(devices, num_nodes)}; "
            f"start the command by {_srun(devices, num_nodes)}"
        )
    if slurm_variables.in_shell() or slurm_variables.in_step() or "WANDB_SWEEP_ID" in os.environ:
        return  # the tasks are those of another command
    if tasks not in (1, devices * num_nodes):
        nodes = number("NNODES") or 1
        mend = f"state trainer.devices={tasks // nodes}" + (
            f" trainer.num_nodes={nodes} and start it by srun" * (nodes > 1)
        )
        raise ConfigError(
            f"SLURM_NTASKS is {tasks}, and {_asked(devices, num_nodes)}; {mend}, or ask sbatch for --ntasks=1"
        )


def _check_world_size(devices: int, num_nodes: int) -> None:
    """Check the number of ranks that torchrun or a similar launcher started, if one did."""
    names = ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "LOCAL_RANK", "RANK", "NODE_RANK", "GROUP_RANK", "MASTER_PORT")
    for name in names:
        if not os.environ.get(name, "0").isdecimal():
            raise ConfigError(f"{name} is {os.environ[name]!r}; a launcher sets it to a whole number")
    if int(os.environ.get("MASTER_PORT", "1")) not in range(1, 2**16):
        raise ConfigError(f"MASTER_PORT is {os.environ['MASTER_PORT']}; it must be between 1 and {2**16 - 1}")
    for name, count in (("WORLD_SIZE", devices * num_nodes), ("LOCAL_WORLD_SIZE", devices)):
        given = os.environ.get(name)
        if given is not None and "LOCAL_RANK" in os.environ and int(given) != count:
            raise ConfigError(
                f"{name} is {given}, and {_asked(devices, num_nodes)}; state trainer.devices=N as torchrun's "
                "--nproc-per-node=N, and trainer.num_nodes=N as its --nnodes=N"
            )
    ranks = {"RANK": devices * num_nodes, "LOCAL_RANK": devices, "NODE_RANK": num_nodes, "GROUP_RANK": num_nodes}
    for name, count in ranks.items():  # a rank beyond the last one would write nothing, as rank 0 does that
        if int(os.environ.get(name, "0")) >= count:
            raise ConfigError(
                f"{name} is {os.environ[name]}, and trainer.devices {devices} x trainer.num_nodes {num_nodes} leave it "
                f"0 to {count - 1}; unset it, or start the command by torchrun"
            )


def _asked(devices: int, num_nodes: int) -> str:
    """The ranks that the config asks for."""
    count = devices * num_nodes
    return f"trainer.devices {devices} x trainer.num_nodes {num_nodes} are {count} process{'es' if count > 1 else ''}"


def _srun(devices: int, num_nodes: int) -> str:
    """The srun that starts the ranks that the config asks for."""
    return f"srun --nodes={num_nodes} --ntasks-per-node={devices}"


def _tasks(count: int) -> str:
    return f"{count} task{'s' if count > 1 else ''} (SLURM_NTASKS)"


def _machines(count: int) -> str:
    return f"{count} machine{'s' if count > 1 else ''} (SLURM_NNODES)"
