"""Saves the run's checkpoint: after every epoch, every few minutes within one, and before a time limit."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint

from dcnlab.data.listing import listing
from dcnlab.training.distributed.collectives import true_on_any_rank, waits_for_gpu
from dcnlab.training.outcome import TimeLimit

ASK_EVERY = 10
"""Steps between two times that ranks on GPUs agree on whether to save, because each time waits for the GPUs."""


class SaveCheckpoint(Checkpoint):
    """Replaces the run's checkpoint.

    Args:
        path: of the checkpoint.
        settings: what the run computes, kept in the checkpoint so that no other run resumes from it.
        minutes: between two checkpoints within an epoch.
        check: raises, on all ranks alike, where the training diverged and the old checkpoint has to stay.
    """

    def __init__(
        self,
        path: Path,
        settings: dict[str, Any],
        minutes: float,
        check: Callable[[pl.Trainer, pl.LightningModule], None],
    ) -> None:
        self.path, self.settings, self.minutes, self.check = path, settings, minutes, check
        self.weights: dict[str, str | None] | None = None
        """Where the backbone's first weights come from, see `dcnlab.models.weights_source`."""
        self.limit_is_near = False
        """Whether a signal announced the time limit."""
        self.asked: type[BaseException] | None = None
        """The exception that a signal raised; the next batch raises it again."""
        self._data: dict[str, Any] = {}
        self._saved_at = 0.0
        self._first_step, self._last_step, self._saved_step = 0, 0, 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock, and set the learning rate for the training's present length."""
        self._saved_at = time.monotonic()
        self._first_step = self._last_step = self._saved_step = trainer.global_step
        _set_rates(trainer)
        self._data = listing(trainer.datamodule.train)  # type: ignore[attr-defined]

    @property
    def progressed(self) -> bool:
        """Whether the checkpoint holds more than the training began with."""
        return self._saved_step > self._first_step

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Save between two steps where it is time; at the end of a batch its metrics would not be logged yet.

        Raises:
            TimeLimit: a signal announced it; the checkpoint is saved.
        """
        self._raise_if_asked()
        if trainer.global_step == self._last_step:  # within a step of several batches
            return
        self._last_step = trainer.global_step
        if waits_for_gpu(trainer) and (self._last_step - self._first_step) % ASK_EVERY:
            return
        due = time.monotonic() - self._saved_at >= 60 * self.minutes
        due, limit = true_on_any_rank(trainer, due, self.limit_is_near)
        if (due or limit) and trainer.global_step > self._saved_step:
            self._save_before_batch(trainer, pl_module)
        if limit:
            raise TimeLimit

    def on_validation_batch_start(self, *arguments: Any) -> None:
        """Stop where a signal asked for it."""
        self._raise_if_asked()

    def on_test_batch_start(self, *arguments: Any) -> None:
        """Stop where a signal asked for it."""
        self._raise_if_asked()

    def _raise_if_asked(self) -> None:
        if self.asked is not None:
            raise self.asked

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save after the epoch and its validation.

        Lightning calls this also where `max_steps` ends the training within an epoch. A longer training then trains
        the rest of the epoch's images, so the checkpoint must count the epoch as not finished.
        """
        loop = trainer.fit_loop
        if loop.epoch_loop.batch_progress.is_last_batch:
            self._save(trainer, pl_module)
            return
        epochs: Any = loop.epoch_progress
        processed = epochs.total.processed, epochs.current.processed
        epochs.total.processed, epochs.current.processed = processed[0] - 1, processed[1] - 1
        self._save(trainer, pl_module)
        epochs.total.processed, epochs.current.processed = processed

    def _save_before_batch(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save with the loop's counters set back, so that a resumed run begins with the batch at hand."""
        progress = trainer.fit_loop.epoch_loop.batch_progress
        ready, is_last = (progress.total.ready, progress.current.ready), progress.is_last_batch
        progress.total.ready, progress.current.ready, progress.is_last_batch = ready[0] - 1, ready[1] - 1, False
        self._save(trainer, pl_module)
        (progress.total.ready, progress.current.ready), progress.is_last_batch = ready, is_last

    def _save(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.check(trainer, pl_module)
        for logger in trainer.loggers:
            logger.save()  # rows of steps that no resumed run trains again
        trainer.save_checkpoint(self.path)
        self._saved_at, self._saved_step = time.monotonic(), trainer.global_step

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the entry `dcnlab`, which resuming needs."""
        loop = trainer.fit_loop
        epochs: Any = loop.epoch_progress.current
        within = epochs.ready > epochs.processed
        checkpoint["dcnlab"] = {
            "settings": self.settings,
            "weights": self.weights,
            "pass": epochs.processed,  # finished epochs; the names are those of the first checkpoints
            "batches": loop.epoch_loop.batch_progress.current.completed if within else 0,
            "processes": trainer.world_size,
            "data": self._data,
        }


def _set_rates(trainer: pl.Trainer) -> None:
    """Set the rates of the next step: a checkpoint holds those of the length that the training had then."""
    for scheduler_config in trainer.lr_scheduler_configs:
        schedule: Any = scheduler_config.scheduler
        for group, rate, factor in zip(
            schedule.optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True
        ):
            group["lr"] = rate * factor(schedule.last_epoch)
