"""Going on after SLURM's time limit: the job goes back into the queue, and its command finds its own checkpoint."""

from __future__ import annotations

import logging
import os
import subprocess

from dcnlab import lifeline

_PATIENCE_SECONDS = 60.0
"""For SLURM's controller to answer; the job has two minutes."""


def requeue(comes_back: bool, got_on: bool) -> None:
    """Put the job that this process is of back into the queue, and say so; nothing without SLURM or within a sweep.

    Lightning can do this too, but with a checkpoint file of its own that `dcnlab resume` does not know.

    Args:
        comes_back: whether the job's command goes on with this run; without, the job stays out of the queue.
        got_on: whether its checkpoint holds more than it began with; without, it would come back for ever.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job is None or lifeline.PARENT in os.environ:
        return
    say = logging.getLogger("dcnlab").info
    if not comes_back:
        say(f"SLURM job {job} is not put back into the queue: it would begin a new run; state its name by id=NAME")
        return
    if not got_on:
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
