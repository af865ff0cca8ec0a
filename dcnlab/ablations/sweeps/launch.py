"""The command of a trial and its environment variables; makes its folder."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

from dcnlab.ablations.sweeps.sweep_file import Sweep
from dcnlab.ablations.sweeps.trial import Trial
from dcnlab.config.overrides import last_of_each
from dcnlab.io.atomic import write_whole
from dcnlab.training.loggers import wandb_run


def command(sweep: Sweep, trial: Trial, arguments: Sequence[str], threads: int | None) -> list[str]:
    """The words after `dcnlab` that run a trial; makes its folder and writes its parameters.json."""
    trial.folder.mkdir(parents=True, exist_ok=True)
    parameters = trial.folder / "parameters.json"
    write_whole(parameters, json.dumps(trial.parameters) + "\n")
    where = [f"name={trial.config.name}", f"out={trial.config.out}", f"id={trial.id}"]
    if trial.config.trainer.threads is None and threads is not None:
        where.append(f"trainer.threads={threads}")
    settings = last_of_each([*sweep.logger, *sweep.overrides, *arguments, *where])
    return ["fit", sweep.program, str(parameters), *settings]


def variables(sweep: Sweep) -> dict[str, str]:
    """Environment variables of the trials: wandb's, and those that the sweep's command sets."""
    mode = {"WANDB_MODE": os.environ.get("WANDB_MODE") or "offline"}
    return {**mode, **dict(sweep.environment), wandb_run.SWEEP: sweep.id}
