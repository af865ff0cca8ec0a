"""Training figures of a whole step of the optimizer, whatever batches and processes it was shared out to."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from pytorch_lightning import Trainer
from torch import Tensor


class StepMeans:
    """Means of scalars over the batches of a step and over all processes.

    One process and eight then log the same losses, as they load equally many images. Call `add` for each batch and,
    in every process, `take` before the optimizer's step.
    """

    def __init__(self) -> None:
        self._names: list[str] = []
        self._batches: list[Tensor] = []

    def add(self, figures: Mapping[str, Tensor]) -> None:
        """Note a batch's figures; each batch of a step has the same."""
        self._names = list(figures)
        self._batches.append(torch.stack([value.detach().float() for value in figures.values()]))

    def take(self, trainer: Trainer) -> dict[str, Tensor]:
        """The step's means, of all processes; begins the next step."""
        means = torch.stack(self._batches).mean(0)
        self._batches = []
        if trainer.world_size > 1:
            # Not by the strategy's own reduction, which begins with a barrier: on GPUs a wait in every step.
            dist.all_reduce(means)
            means /= trainer.world_size
        return dict(zip(self._names, means.unbind(), strict=True))
