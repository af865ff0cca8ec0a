"""What a training costs: seconds, images, memory; and what a network costs: parameters and multiply-adds."""

from __future__ import annotations

import resource
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import FrozenBatchNorm2d


class Cost(pl.Callback):
    """Counts training seconds, without validation, and images; goes on counting in a resumed run."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.images = 0
        self._since: float | None = None

    def state_dict(self) -> dict[str, Any]:
        """Seconds and images so far."""
        return {"seconds": self.seconds + self._running(), "images": self.images}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
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
        """Count the images of all processes; every process loads equally many in training."""
        self.images += len(batch[0]) * trainer.world_size

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock."""
        self.stop()

    def stop(self) -> None:
        """Stop the clock, wherever the training is."""
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
    """The largest memory that this process held.

    Where Linux tells it, since this program began; `getrusage` also counts what held the process before, its parent's
    memory where that started it without a copy.
    """
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")]
    return found[0] if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def parameters(model: nn.Module) -> int:
    """Numbers that a network learns: weights and biases, scale and shift of norms, frozen or not."""
    norms = [module for module in model.modules() if isinstance(module, FrozenBatchNorm2d)]
    frozen = sum(norm.weight.numel() + norm.bias.numel() for norm in norms)
    return frozen + sum(parameter.numel() for parameter in model.parameters())


def macs(model: nn.Module, image: Tensor) -> int:
    """Multiply-adds of one forward pass: convolutions, plain and deformable, and matrix products.

    Bilinear sampling is not counted: neither a deformable convolution's nor RoI pooling, which is nothing else.

    Args:
        model: the network; put back into the mode it was in.
        image: (N, C, H, W); the count is that of all N.
    """
    import dcnlab.ops  # noqa: F401  (makes the operators known to torch, and to its counter)

    training = model.training
    model.eval()
    poolings = (torch.ops.dcnlab.deform_ps_roi_pool, torch.ops.dcnlab.deform_roi_pool)
    counter = FlopCounterMode(display=False, custom_mapping=dict.fromkeys(poolings, _nothing))
    with torch.no_grad(), counter:
        model(image)
    model.train(training)
    return counter.get_total_flops() // 2


def _nothing(*args: Any, **kwargs: Any) -> int:
    return 0
