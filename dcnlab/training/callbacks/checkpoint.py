"""Saves the run's checkpoint: after every epoch, every few minutes within one, and where a signal ends the run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint

from dcnlab.data.listing import listing
from dcnlab.training.distributed.collectives import least_of_all_ranks, true_on_any_rank, waits_for_gpu
from dcnlab.training.outcome import STOPPING, Stopped

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
        self.signal: int | None = None
        """The signal that asked the run to end."""
        self.at_once = False
        """Whether it ends without saving; the next batch raises `Stopped` again, as Python may have dropped it."""
        self.saves_when_asked = False
        """Whether the training runs, so that a signal can wait for the end of the step."""
        self._data: dict[str, Any] = {}
        self._saved_at = 0.0
        self._first_step, self._last_step, self._saved_step = 0, 0, 0
        self._common_batches = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock, and set the learning rate for the training's present length."""
        self._saved_at = time.monotonic()
        self._first_step = self._last_step = self._saved_step = trainer.global_step
        _set_rates(trainer)
        self._data = listing(trainer.datamodule.train)  # type: ignore[attr-defined]
        self.saves_when_asked = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note that there is nothing left to save: the last epoch was."""
        self.saves_when_asked = False

    @property
    def progressed(self) -> bool:
        """Whether the checkpoint holds more than the training began with."""
        return self._saved_step > self._first_step

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Save between two steps where it is time; at the end of a batch its metrics would not be logged yet.

        Raises:
            Stopped: a signal asked for it; the checkpoint is saved.
        """
        self._raise_if_at_once()
        if trainer.global_step == self._last_step:  # within a step of several batches
            return
        self._last_step = trainer.global_step
        if waits_for_gpu(trainer) and (self._last_step - self._first_step) % ASK_EVERY:
            return
        due = time.monotonic() - self._saved_at >= 60 * self.minutes
        due, *asked = true_on_any_rank(trainer, due, *self._signals())
        if (due or any(asked)) and trainer.global_step > self._saved_step:
            self._save_before_batch(trainer, pl_module)
        _raise_if_any(asked)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count the batches that all ranks have, since all must ask together."""
        self._common_batches = least_of_all_ranks(trainer, int(sum(trainer.num_val_batches)))

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Save as before the validation, and stop, where a signal asked for it; a resumed run validates first.

        Raises:
            Stopped: a signal asked for it.
        """
        self._raise_if_at_once()
        if batch_idx >= self._common_batches or (waits_for_gpu(trainer) and batch_idx % ASK_EVERY):
            return
        asked = true_on_any_rank(trainer, *self._signals())
        if any(asked) and trainer.state.fn == "fit":
            self._save_before_validation(trainer, pl_module)
        _raise_if_any(asked)

    def on_test_batch_start(self, *arguments: Any) -> None:
        """Stop where a signal asked for it.

        Raises:
            Stopped: a signal asked for it.
        """
        if self.signal is not None:
            raise Stopped(self.signal)

    def _raise_if_at_once(self) -> None:
        if self.at_once and self.signal is not None:
            raise Stopped(self.signal)

    def _signals(self) -> list[bool]:
        """For each signal of `STOPPING`, whether it asked this rank to end."""
        return [self.signal == number for number in STOPPING]

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save after the epoch and its validation, and stop where a signal asked for it.

        Lightning calls this also where `max_steps` ends the training within an epoch. A longer training then trains
        the rest of the epoch's images, so the checkpoint must count the epoch as not finished.

        Raises:
            Stopped: a signal asked for it.
        """
        loop = trainer.fit_loop
        if loop.epoch_loop.batch_progress.is_last_batch:
            self._save(trainer, pl_module)
        else:
            epochs: Any = loop.epoch_progress
            processed = epochs.total.processed, epochs.current.processed
            epochs.total.processed, epochs.current.processed = processed[0] - 1, processed[1] - 1
            self._save(trainer, pl_module)
            epochs.total.processed, epochs.current.processed = processed
        _raise_if_any(true_on_any_rank(trainer, *self._signals()))

    def _save_before_validation(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save with the counters of a validation whose first batch is not done; see `EpochLoop`."""
        progress: Any = trainer.fit_loop.epoch_loop.val_loop.batch_progress
        for counts, begun in ((progress.total, 1), (progress.current, 0)):
            counts.ready, counts.started, counts.processed, counts.completed = begun, begun, 0, 0
        progress.is_last_batch = False
        self._save(trainer, pl_module)

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


def _raise_if_any(asked: Sequence[bool]) -> None:
    """Raise `Stopped` on all ranks where a signal of `STOPPING` asked one of them."""
    for number, flag in zip(STOPPING, asked, strict=True):
        if flag:
            raise Stopped(number)


def _set_rates(trainer: pl.Trainer) -> None:
    """Set the rates of the next step: a checkpoint holds those of the length that the training had then."""
    for scheduler_config in trainer.lr_scheduler_configs:
        schedule: Any = scheduler_config.scheduler
        for group, rate, factor in zip(
            schedule.optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True
        ):
            group["lr"] = rate * factor(schedule.last_epoch)
