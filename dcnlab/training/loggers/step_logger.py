"""Lightning's wandb logger, whose curves all have the steps of the optimizer as their x axis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytorch_lightning.loggers import WandbLogger

from dcnlab.training.loggers import wandb_run


class StepLogger(WandbLogger):
    """Lightning's logger, with the steps of the optimizer as the x axis of metrics of any name."""

    def __init__(self, run: Any) -> None:
        super().__init__(experiment=run)
        self._defined: set[str] = set()

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log a row."""
        for name in set(metrics) - self._defined:
            self._defined.add(name)
            if f"{name.partition('/')[0]}/*" not in wandb_run.FAMILIES:
                self.experiment.define_metric(name, step_metric=wandb_run.STEP, step_sync=True)
        super().log_metrics(metrics, step)
