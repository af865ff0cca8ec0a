"""WatchBest: keeps the checkpoint of the best validation, and ends a training that no longer improves."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from dcnlab.config.schema import Config
from dcnlab.io.errors import ConfigError
from dcnlab.io.text import nearest_and_all
from dcnlab.metrics.names import goal
from dcnlab.training.distributed.rank import is_rank_0

_LOG = logging.getLogger("dcnlab")
KEY = "dcnlab.best"
"""Of its state in the checkpoint."""


def monitored(config: Config) -> str:
    """The metric to watch: `trainer.monitor`, or the headline metric of the task."""
    coco = config.data.protocol == "coco" or (config.data.protocol is None and config.data.name == "coco")
    usual = {"classification": "top1", "segmentation": "miou", "detection": "ap" if coco else "ap50"}
    return config.trainer.monitor or f"val/{usual[config.task]}"


class WatchBest(pl.Callback):
    """Compares the metric after each validation with its best value so far.

    Args:
        metric: its name in the log; lower is better for losses, higher for others.
        path: of the checkpoint of the best value; None keeps none.
        patience: validations in a row without a better value that end the training; None ends none.
    """

    def __init__(self, metric: str, path: Path | None, patience: int | None) -> None:
        self.metric, self.path, self.patience = metric, path, patience
        self._sign = -1 if goal(metric) == "minimize" else 1
        self.best: float | None = None
        self.waited = 0

    @property
    def state_key(self) -> str:
        """The key of the state in a checkpoint."""
        return KEY

    def state_dict(self) -> dict[str, Any]:
        """The best value, and the validations since."""
        return {"metric": self.metric, "best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the output of `state_dict`, if it was of the same metric."""
        if state["metric"] == self.metric:
            self.best, self.waited = state["best"], state["waited"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End a resumed training at once if its patience had ended it before."""
        self._end(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare the metric, which all ranks know alike.

        Raises:
            ConfigError: there is no such metric.
        """
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        metrics = trainer.callback_metrics
        if self.metric not in metrics:
            known = [name for name in metrics if name.startswith("val/")]
            raise ConfigError(
                f"trainer.monitor is {self.metric!r}, which the validation does not log; "
                f"{nearest_and_all(self.metric, known)}"
            )
        value = float(metrics[self.metric])
        if not math.isnan(value) and (self.best is None or self._sign * value > self._sign * self.best):
            self.best, self.waited = value, 0
            if self.path is not None:
                trainer.save_checkpoint(self.path)
        else:
            self.waited += 1
            if self.waited == self.patience and is_rank_0():
                best = "no value" if self.best is None else f"{self.best:.4g}"
                _LOG.info(
                    f"the training ends at step {trainer.global_step}: {self.metric} was not better than {best} in "
                    f"{self.patience} validations (trainer.early_stop)"
                )
        self._end(trainer)

    def _end(self, trainer: pl.Trainer) -> None:
        if self.patience is not None and self.waited >= self.patience:
            trainer.should_stop = True


def has_ended(content: dict[str, Any], config: Config) -> bool:
    """Whether a checkpoint is of a training that ended because the metric did not improve.

    Args:
        content: of the checkpoint.
        config: to resume under.
    """
    patience, state = config.trainer.early_stop, content.get("callbacks", {}).get(KEY)
    waited = state.get("waited") if isinstance(state, dict) else None
    return patience is not None and isinstance(waited, int) and waited >= patience
