"""Turns the process that submitit starts on a SLURM machine into a trial."""

from __future__ import annotations

import os
import sys

from dcnlab.training.distributed import parent_death


def become(arguments: list[str], log: str, variables: dict[str, str]) -> None:
    """Replace the process that submitit started by a trial, which gets SLURM's signals and gives its exit status.

    Args:
        arguments: what follows `dcnlab`.
        log: file that the output of all the trial's processes is added to.
        variables: of its environment.
    """
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    foreign = (parent_death.PARENT, "WANDB_RUN_ID", "DCNLAB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH")
    inherited = {name: value for name, value in os.environ.items() if name not in foreign}
    os.execve(sys.executable, [sys.executable, "-P", "-m", "dcnlab", *arguments], inherited | variables)
