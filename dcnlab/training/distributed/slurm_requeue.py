"""Requeues a SLURM job whose time is up.

The requeued job runs the same command, which finds its own checkpoint.
"""

from __future__ import annotations

import logging
import os
import subprocess

from dcnlab.training.distributed import parent_death, slurm_variables

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
    return (slurm_variables.number("RESTART_COUNT") or 0) > 0
