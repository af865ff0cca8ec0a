"""The console of a run: Lightning's messages silenced, ours on stderr, a progress bar; and TensorBoard's logger."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from pathlib import Path
from typing import Any

from pytorch_lightning.callbacks import RichProgressBar
from pytorch_lightning.loggers import TensorBoardLogger

from dcnlab.config.schema import Config, LoggerConfig
from dcnlab.io.errors import ConfigError
from dcnlab.io.text import VisibleFormatter
from dcnlab.training.distributed.rank import is_rank_0

_NOISE = (
    r".*does not have many workers.*",
    r".*The `srun` command is available on your system but is not used.*",
    r".*logging interval.*",
    r".*Found .* module\(s\) in eval mode at the start of training.*",
    r".*You're resuming from a checkpoint that ended before the epoch ended.*",
    r".*callbacks used to create the checkpoint need to be provided.*",
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",
    r".*It is recommended to use `self.log\(.*sync_dist=True.*",  # what we log is the same on all ranks
    r".*You're using the WeightAveraging callback, but loading a checkpoint outside the 'fit' stage.*",
    r".*You defined a `validation_step` but have no `val_dataloader`.*",
)


def quiet() -> None:
    """Silence Lightning's hints for developers, not its errors and other warnings; our messages go to stderr."""
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
    """Lightning's bar, without the logger's version number."""

    def get_metrics(self, trainer: Any, pl_module: Any) -> dict[str, Any]:
        """Metrics next to the bar."""
        return {key: value for key, value in super().get_metrics(trainer, pl_module).items() if key != "v_num"}

    def _get_train_description(self, current_epoch: int) -> str:
        return f"epoch {current_epoch + 1}"


def uses(loggers: LoggerConfig, name: str) -> bool:
    """Whether an experiment asks for a logger, wandb or tensorboard."""
    return (loggers.wandb and name == "wandb") if loggers.names is None else name in loggers.names


def check_tensorboard(loggers: LoggerConfig) -> None:
    """Check that TensorBoard is installed where an experiment asks for it.

    Raises:
        ConfigError: it is not.
    """
    packages = ("tensorboard", "tensorboardX")
    if uses(loggers, "tensorboard") and not any(importlib.util.find_spec(name) for name in packages):
        raise ConfigError("logger.names has tensorboard, which is not installed: pip install 'dcnlab[tensorboard]'")


def tensorboard_loggers(config: Config, folder: Path) -> list[TensorBoardLogger]:
    """The logger to TensorBoard's files in the run folder; none where the config does not ask for it."""
    if not uses(config.logger, "tensorboard"):
        return []
    return [TensorBoardLogger(folder, name="", version="tensorboard", default_hp_metric=False)]
