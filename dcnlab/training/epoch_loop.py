"""EpochLoop: Lightning's loop over epochs, which also resumes within an epoch and before its validation."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loops.fit_loop import _FitLoop


class EpochLoop(_FitLoop):
    """The loop of a trainer, with the epochs and steps that the trainer was given."""

    @classmethod
    def put_into(cls, trainer: pl.Trainer) -> None:
        """Replace a trainer's loop."""
        loop = cls(trainer, min_epochs=trainer.fit_loop.min_epochs, max_epochs=trainer.fit_loop.max_epochs)
        loop.epoch_loop = trainer.fit_loop.epoch_loop
        trainer.fit_loop = loop

    def _iteration_based_training(self) -> bool:
        # Where max_steps is set, Lightning takes each checkpoint for one within an epoch, and skips the next epoch.
        return False

    @property
    def done(self) -> bool:
        """Whether all is trained and validated: a run that ended within its last validation has that left to do."""
        batches: Any = self.epoch_loop.val_loop.batch_progress.total
        return super().done and batches.started == batches.processed
