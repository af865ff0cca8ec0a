"""Where a run's figures go beside metrics.csv: a mirror on Weights & Biases, and a quiet console."""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path
from typing import Any

from pytorch_lightning.callbacks import RichProgressBar
from pytorch_lightning.loggers import WandbLogger

from dcnlab.config.schema import Config
from dcnlab.config.validation import choose
from dcnlab.io.errors import ConfigError
from dcnlab.io.text import VisibleFormatter
from dcnlab.training.distributed.rank import is_rank_0
from dcnlab.training.loggers import wandb_run

_NOISE = (
    r".*does not have many workers.*",
    r".*The `srun` command is available on your system but is not used.*",
    r".*logging interval.*",
    r".*Found .* module\(s\) in eval mode at the start of training.*",
    r".*You're resuming from a checkpoint that ended before the epoch ended.*",
    r".*callbacks used to create the checkpoint need to be provided.*",
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",
    r".*It is recommended to use `self.log\(.*sync_dist=True.*",  # what we log is the same in all processes
    r".*You're using the WeightAveraging callback, but loading a checkpoint outside the 'fit' stage.*",
    r".*You defined a `validation_step` but have no `val_dataloader`.*",
)


def quiet() -> None:
    """Silence what Lightning says to developers; its errors and other warnings stay, and our own words go to stderr."""
    ours = logging.getLogger("dcnlab")
    if not ours.handlers and is_rank_0():
        handler = logging.StreamHandler()
        handler.setFormatter(VisibleFormatter())
        ours.addHandler(handler)
        ours.setLevel(logging.INFO)
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in _NOISE:
        warnings.filterwarnings("ignore", message)


class ProgressBar(RichProgressBar):
    """Lightning's bar, which knows no pass to end at where the training is counted in steps."""

    def get_metrics(self, trainer: Any, pl_module: Any) -> dict[str, Any]:
        """Figures beside the bar, without the logger's own name for the run."""
        return {key: value for key, value in super().get_metrics(trainer, pl_module).items() if key != "v_num"}

    def _get_train_description(self, current_epoch: int) -> str:
        return f"pass {current_epoch + 1}"


def wandb_mode() -> str:
    """offline, unless WANDB_MODE says otherwise or a wandb agent, which talks to its server anyway, started the run.

    Raises:
        ConfigError: WANDB_MODE is none of wandb's, or wants a server and there is no key: nothing here asks for one.
    """
    mode = os.environ.get("WANDB_MODE") or ("online" if "WANDB_SWEEP_ID" in os.environ else "offline")
    choose("WANDB_MODE", mode, ("online", "offline", "shared", "disabled", "dryrun", "run"))
    mode = {"dryrun": "offline", "run": "online"}.get(mode, mode)
    if mode in ("online", "shared"):
        import wandb

        if not wandb.login(prompt=False, verify=False):
            raise ConfigError(f"WANDB_MODE is {mode}, and there is no key: run `wandb login`, or unset WANDB_MODE")
    return mode


def wandb_logger(config: Config, folder: Path) -> WandbLogger | None:
    """A logger to Weights & Biases, its files in the run folder; None where config or WANDB_MODE want none."""
    mode: Any = wandb_mode() if config.logger.wandb else "disabled"
    if mode == "disabled" or not is_rank_0():
        return None
    if mode == "offline":  # the mode of a run alone does not keep wandb's own telemetry from the network
        os.environ.setdefault("WANDB_MODE", mode)
        os.environ["WANDB_ERROR_REPORTING"] = "false"
    import wandb

    # Not through WandbLogger's own call of init, which passes options that wandb warns about.
    run = wandb.init(
        project=config.logger.project,
        entity=config.logger.entity,
        name=f"{config.name}/{config.id}",
        group=config.name,
        dir=folder,
        config=wandb_run.config(config),
        mode=mode,
        settings=wandb.Settings(silent=True, console="off", disable_git=True, x_disable_stats=mode == "offline"),
    )
    wandb_run.define(run)
    return WandbLogger(experiment=run)
