"""Warns when a run hangs: a line where no batch has ended for minutes, with the phase it is in."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Any

import pytorch_lightning as pl

from dcnlab.io.text import say

MINUTES = 5.0
"""Without the end of a batch, before the first warning; each further one comes after twice the time."""

_HINTS = {
    "loading data": "the disk may be slow, or a loader process may hang; data.workers=0 loads in the training process",
    "forward": "the first steps may compile kernels; a large batch may swap memory",
    "backward": "the first steps may compile kernels; another rank may be late, as all wait for one another here",
    "evaluation": "a large image may take long; another rank may be late",
    "loading data or scoring in evaluation": "scoring takes long for many images; a loader process may hang",
}


class Watchdog(pl.Callback):
    """Watches from a thread whether batches end, in training and in evaluation; it only warns."""

    def __init__(self) -> None:
        self._phase, self._since, self._lines = "loading data", time.monotonic(), 0
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._rank = ""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Start the thread."""
        self._rank = f"rank {trainer.global_rank}: " if trainer.world_size > 1 else ""
        self._ended("loading data")
        if self._thread is None:
            self._over.clear()
            self._thread = threading.Thread(target=self._watch, daemon=True, name="watchdog")
            self._thread.start()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Stop the thread."""
        self._over.set()
        self._thread = None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Stop the thread."""
        self._over.set()
        self._thread = None

    def on_train_batch_start(self, *args: Any, **kwargs: Any) -> None:
        """Note the phase."""
        self._phase = "forward"

    def on_before_backward(self, *args: Any, **kwargs: Any) -> None:
        """Note the phase."""
        self._phase = "backward"

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Note the end of a batch."""
        self._ended("loading data")

    def on_validation_batch_start(self, *args: Any, **kwargs: Any) -> None:
        """Note the phase."""
        self._phase = "evaluation"

    def on_validation_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Note the end of a batch."""
        self._ended("loading data or scoring in evaluation")

    def on_validation_end(self, *args: Any, **kwargs: Any) -> None:
        """Note that the training continues."""
        self._ended("loading data")

    on_test_batch_start = on_validation_batch_start
    on_test_batch_end = on_validation_batch_end

    def _ended(self, phase: str) -> None:
        self._phase, self._since, self._lines = phase, time.monotonic(), 0

    def _watch(self) -> None:
        over = self._over
        while not over.wait(min(5.0, 15 * MINUTES)):
            waited = time.monotonic() - self._since
            if waited >= 60 * MINUTES * 2**self._lines:
                self._lines += 1
                phase, clock = self._phase, time.strftime("%H:%M:%S", time.localtime(time.time() - waited))
                say(
                    f"warning: {self._rank}no batch has ended for {waited / 60:.3g} minutes, since {clock}, "
                    f"in: {phase}; {_HINTS[phase]} (process {os.getpid()})",
                    file=sys.stderr,
                    flush=True,
                )
