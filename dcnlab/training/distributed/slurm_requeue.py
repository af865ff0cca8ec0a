"""Requeues a SLURM job whose time is up, and checks the ranks that SLURM or torchrun started.

The requeued job runs the same command, which finds its own checkpoint.
"""

from __future__ import annotations

import logging
import os
import subprocess

from dcnlab.io.errors import ConfigError
from dcnlab.training.distributed import parent_death

_PATIENCE_SECONDS = 60.0
"""For SLURM's controller to answer; the job has two minutes left."""


def requeue(same_command_resumes: bool, progressed: bool) -> None:
    """Requeue the SLURM job of this process, and say so; does nothing outside SLURM or within a sweep.

    Lightning can do this too, but it writes another checkpoint file, which `dcnlab resume` does not know.

    Args:
        same_command_resumes: whether the job's command finds this run; otherwise the job is not requeued.
        progressed: whether the checkpoint advanced in this job; otherwise the job would be requeued for ever.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job is None or parent_death.PARENT in os.environ:
        return
    say = logging.getLogger("dcnlab").info
    if not same_command_resumes:
        say(f"SLURM job {job} is not put back into the queue: it would begin a new run; state its name by id=NAME")
        return
    if not progressed:
        say(f"SLURM job {job} is not put back into the queue: it saved nothing new; give it more time (sbatch --time)")
        return
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=_PATIENCE_SECONDS)
        failed = " ".join(done.stderr.split()) or f"status {done.returncode}" if done.returncode else None
    except (OSError, subprocess.TimeoutExpired) as error:
        failed = str(error)
    how = f"cannot be put back into the queue: {failed}" if failed else "goes back into the queue"
    say(f"SLURM job {job} {how}")


def was_requeued() -> bool:
    """Whether SLURM has started this job before, and put it back into the queue."""
    return (_number("RESTART_COUNT") or 0) > 0


def under_srun() -> bool:
    """Whether srun started this process, and not torchrun."""
    from lightning_fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

    return SLURMEnvironment.detect() and not TorchElasticEnvironment.detect()


def check_tasks(devices: int, num_nodes: int) -> None:
    """Check the number of tasks of the srun that started this process.

    Args:
        devices: ranks on a machine.
        num_nodes: machines.

    Raises:
        ConfigError: their number differs, or srun did not start it; names the variable and the key.
    """
    tasks, each, nodes = _number("NTASKS"), _number("NTASKS_PER_NODE"), _number("NNODES")
    for name in ("PROCID", "LOCALID", "NODEID"):
        if _number(name) is None:
            raise ConfigError(f"SLURM_NTASKS is {tasks} and SLURM_{name} is not set; start the command by srun")
    if each is None and tasks is not None and tasks > 1:
        per_machine = max(1, tasks // num_nodes)
        raise ConfigError(
            f"SLURM_NTASKS is {tasks} and SLURM_NTASKS_PER_NODE is not set; "
            f"state --ntasks-per-node={per_machine} in place of --ntasks, and trainer.devices={per_machine}"
        )
    for name, value, key, wanted, option in (
        ("NTASKS_PER_NODE", each, "devices", devices, "--ntasks-per-node"),
        ("NNODES", nodes, "num_nodes", num_nodes, "--nodes"),
    ):
        if value is not None and value != wanted:
            raise ConfigError(
                f"SLURM_{name} is {value} and trainer.{key} is {wanted}; "
                f"state trainer.{key}={value}, or {option}={wanted}"
            )
    if tasks != devices * num_nodes:
        raise ConfigError(
            f"SLURM_NTASKS is {tasks}, and trainer.devices {devices} x trainer.num_nodes {num_nodes} are "
            f"{devices * num_nodes} processes; state --nodes={num_nodes} --ntasks-per-node={devices}"
        )


def check_world_size(devices: int, num_nodes: int) -> None:
    """Check the number of ranks that torchrun or a similar launcher started, if one did.

    Args:
        devices: ranks on a machine.
        num_nodes: machines.

    Raises:
        ConfigError: their number differs, or a variable of the launcher is not a number.
    """
    for name in ("WORLD_SIZE", "LOCAL_RANK", "RANK", "NODE_RANK", "GROUP_RANK", "MASTER_PORT"):
        if not os.environ.get(name, "0").isdecimal():
            raise ConfigError(f"{name} is {os.environ[name]!r}; a launcher sets it to a whole number")
    if int(os.environ.get("MASTER_PORT", "1")) not in range(1, 2**16):
        raise ConfigError(f"MASTER_PORT is {os.environ['MASTER_PORT']}; it must be between 1 and {2**16 - 1}")
    world = os.environ.get("WORLD_SIZE")
    if world is not None and "LOCAL_RANK" in os.environ and int(world) != devices * num_nodes:
        raise ConfigError(
            f"WORLD_SIZE is {world}, and trainer.devices {devices} x trainer.num_nodes {num_nodes} are "
            f"{devices * num_nodes} processes; state trainer.devices=N as torchrun's --nproc-per-node=N, and "
            "trainer.num_nodes=N as its --nnodes=N"
        )
    ranks = {"RANK": devices * num_nodes, "LOCAL_RANK": devices, "NODE_RANK": num_nodes, "GROUP_RANK": num_nodes}
    for name, count in ranks.items():  # a rank beyond the last one would write nothing, as rank 0 does that
        if int(os.environ.get(name, "0")) >= count:
            raise ConfigError(
                f"{name} is {os.environ[name]}, and trainer.devices {devices} x trainer.num_nodes {num_nodes} leave it "
                f"0 to {count - 1}; unset it, or start the command by torchrun"
            )


def _number(name: str) -> int | None:
    """The value of one of SLURM's numeric variables; None where it is not set."""
    text = os.environ.get(f"SLURM_{name}")
    if text is not None and not text.isdecimal():
        raise ConfigError(f"SLURM_{name} is {text!r}; SLURM sets it to a whole number")
    return None if text is None else int(text)
