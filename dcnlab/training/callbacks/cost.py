"""Measures what a training costs: seconds, images per second, peak memory."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch


class Cost(pl.Callback):
    """Counts training seconds, without validation, and images; a resumed run continues the count."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.images = 0
        self._since: float | None = None

    def state_dict(self) -> dict[str, Any]:
        """Seconds and images so far."""
        return {"seconds": self.seconds + self._running(), "images": self.images}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the output of `state_dict`."""
        self.seconds, self.images = state["seconds"], state["images"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._since = time.perf_counter()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock."""
        self.stop()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock again, in training."""
        if trainer.state.fn == "fit":
            self._since = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the images of all ranks; every rank loads equally many in training."""
        self.images += len(batch[0]) * trainer.world_size

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock."""
        self.stop()

    def stop(self) -> None:
        """Stop the clock, at any moment of the training."""
        self.seconds += self._running()
        self._since = None

    def _running(self) -> float:
        return 0.0 if self._since is None else time.perf_counter() - self._since

    def summary(self, device: torch.device) -> dict[str, float | int | None]:
        """The `cost` of results.json: peak memory is the GPU's, or this process's on a CPU."""
        if device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(device)
        else:
            peak = peak_resident_bytes()
        return {
            "train_seconds": round(self.seconds, 3),
            "images_per_second": round(self.images / self.seconds, 3) if self.seconds else None,
            "peak_memory_bytes": peak,
        }


def peak_resident_bytes() -> int:
    """Peak memory of this process.

    On Linux it is that of this program. `getrusage`, the fallback, may include the memory of the parent process.
    """
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    peaks = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")]
    if peaks:
        return peaks[0]
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
