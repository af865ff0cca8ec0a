"""Training metrics of a whole step of the optimizer, over its batches and ranks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from pytorch_lightning import Trainer
from torch import Tensor


class StepMeans:
    """Means of scalars over the batches of a step and over all ranks.

    One rank and eight then log the same losses, as they load equally many images. Call `add` for each batch and,
    on every rank, `take` before the optimizer's step.
    """

    def __init__(self) -> None:
        self._names: list[str] = []
        self._batches: list[Tensor] = []

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Add a batch's metrics; each batch of a step has the same names."""
        self._names = list(metrics)
        self._batches.append(torch.stack([value.detach().float() for value in metrics.values()]))

    def take(self, trainer: Trainer) -> dict[str, Tensor]:
        """The step's means over all ranks; begins the next step."""
        means = torch.stack(self._batches).mean(0)
        self._batches = []
        if trainer.world_size > 1:
            # Not by the strategy's own reduction, which begins with a barrier: on GPUs a wait in every step.
            dist.all_reduce(means)
            means /= trainer.world_size
        return dict(zip(self._names, means.unbind(), strict=True))
