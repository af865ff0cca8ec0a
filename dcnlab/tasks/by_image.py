"""ByImage: values of test images, gathered from all ranks so that each image is there once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import torch.distributed as dist
from pytorch_lightning import Trainer

Values = TypeVar("Values")


class ByImage:
    """Values of the images that this rank tests, by their positions in the data set.

    A rank's images are those of `EvaluationSampler`: rank r has r, r + world, and so on, in this order.
    """

    def __init__(self) -> None:
        self._values: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self._values)

    def add(self, trainer: Trainer, values: Any) -> None:
        """Add the values of this rank's next image."""
        self._values[len(self._values) * trainer.world_size + trainer.global_rank] = values

    def take(self) -> dict[int, Any]:
        """The values of all ranks in the order of the images; every rank calls it, and begins anew."""
        values, self._values = self._values, {}
        return gathered(values)


def gathered(by_image: Mapping[int, Values]) -> dict[int, Values]:
    """What all ranks know by image, in the order of the images."""
    parts: list[Any] = [by_image]
    if dist.is_available() and dist.is_initialized():
        parts = [None] * dist.get_world_size()
        dist.all_gather_object(parts, by_image)
    joined = {image: values for part in parts for image, values in part.items()}
    return dict(sorted(joined.items()))
