"""ShowProgress: a bar on a terminal, lines elsewhere, and the learning rate among the logged metrics."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytorch_lightning as pl
import torch

from dcnlab.tasks.optim import rates_of
from dcnlab.training.loggers.console import ProgressBar
from dcnlab.training.run_lines import Standing


class ShowProgress(pl.Callback):
    """Shows on rank 0 how far a training is, in the steps that are logged; logs their learning rates.

    Args:
        every: `logger.every`.
        metric: of the validation, such as `val/top1`.
        tell: prints a line; None prints none.
        bar: to show in place of lines.
    """

    def __init__(
        self, every: int, metric: str, tell: Callable[[Standing], None] | None = None, bar: ProgressBar | None = None
    ) -> None:
        self.every, self.metric, self.tell, self.bar = every, metric, tell, bar
        self._rate, self._step = 0.0, 0
        self._steps: int | None = None
        self._began: tuple[float, int] | None = None
        self._score: tuple[str, float] | None = None
        self._shown: Standing | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Learn how long the training is."""
        steps = trainer.estimated_stepping_batches
        self._steps, self._step, self._began = int(steps) if math.isfinite(steps) else None, trainer.global_step, None
        if self.bar is not None and trainer.is_global_zero:
            self.bar.start(self._steps, self._step)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Log the rates of a step that is logged."""
        self._rate = optimizer.param_groups[0]["lr"]
        if (trainer.global_step + 1) % self.every == 0:
            pl_module.log_dict(rates_of(optimizer))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Show the step, if this batch ended one."""
        step = trainer.global_step
        if step == self._step or not trainer.is_global_zero:
            return
        self._step = step
        if self._began is None:  # the first step may compile kernels, so the rate is that of the steps after it
            self._began = time.monotonic(), step
        if self.bar is not None:
            self.bar.step(step)
        if (self.bar or self.tell) and (step % self.every == 0 or step == self._steps):
            self._shown = self._standing(trainer)
            if self.bar is not None:
                self.bar.show(self._shown)
            elif self.tell is not None:
                self.tell(self._shown)

    def _standing(self, trainer: pl.Trainer) -> Standing:
        began, first = self._began or (0.0, self._step)
        done = self._step - first
        batches = trainer.num_training_batches / trainer.accumulate_grad_batches
        bounded = self._steps is not None and math.isfinite(batches)
        left = (time.monotonic() - began) / done * (self._steps - self._step) if self._steps and done else None
        loss = trainer.callback_metrics.get("train/loss")
        return Standing(
            step=self._step,
            steps=self._steps,
            epoch=trainer.current_epoch + 1,
            epochs=math.ceil(self._steps / math.ceil(batches)) if bounded and self._steps else None,
            loss=None if loss is None else float(loss),
            rate=self._rate,
            score=self._score,
            left=left,
        )

    def on_validation_batch_start(self, trainer: pl.Trainer, *arguments: Any) -> None:
        """Show the batch of the validation."""
        if self.bar is not None and trainer.is_global_zero:
            self.bar.evaluate("validation", arguments[2], sum(trainer.num_val_batches))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the score for the next lines."""
        if self.metric in trainer.callback_metrics:
            self._score = self.metric, float(trainer.callback_metrics[self.metric])
        if self.bar is not None and trainer.is_global_zero:
            self.bar.end_evaluation()
            if self._shown is not None:
                self.bar.show(replace(self._shown, score=self._score))

    def on_test_batch_start(self, trainer: pl.Trainer, *arguments: Any) -> None:
        """Show the batch of the test."""
        if self.bar is not None and trainer.is_global_zero:
            self.bar.evaluate("test", arguments[2], sum(trainer.num_test_batches))

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remove the bar of the test."""
        if self.bar is not None:
            self.bar.end_evaluation()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave the terminal to others."""
        if self.bar is not None:
            self.bar.stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave the terminal to others."""
        if self.bar is not None:
            self.bar.stop()
