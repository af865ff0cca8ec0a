"""PhotographSplit: the base class of data sets of image files, whose items follow from seed, epoch and index."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from dcnlab.data.seeding import seeded
from dcnlab.io.memory import enough_memory

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of red, green and blue in 0..1, as torchvision's weights expect."""

Item = TypeVar("Item", covariant=True)


class PhotographSplit(ABC, Dataset[Item]):
    """Items by index, or by pair (epoch, index); the augmentation is a function of (seed, epoch, index) alone.

    Other random numbers, the loader process and the batch do not change an item. An index alone means epoch 0.

    Args:
        augment: whether this is the training split.
        seed: of the augmentation.
    """

    def __init__(self, augment: bool, seed: int) -> None:
        self.augment, self.seed = augment, seed

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    def __getitem__(self, key: int | tuple[int, int]) -> Item:
        epoch, index = (0, key) if isinstance(key, int) else key
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        randomness = seeded(self.seed, epoch, index) if self.augment else contextlib.nullcontext()
        with enough_memory(self.path(index)):
            return self.item(index, randomness)

    @abstractmethod
    def path(self, index: int) -> str:
        """Path of an image."""

    @abstractmethod
    def item(self, index: int, randomness: contextlib.AbstractContextManager[None]) -> Item:
        """Read and transform an image with its labels; transforms that draw random numbers run in `randomness`."""


NO_JITTER = (0.0, 0.0, 0.0, 0.0)
"""Colours stay as they are."""


def colour_jitter(color_jitter: Sequence[float]) -> list[v2.Transform]:
    """Torchvision's ColorJitter as a list of one transform, of images alone; empty where nothing changes.

    Args:
        color_jitter: of brightness, contrast and saturation, each b for a factor in max(0, 1 - b) to 1 + b; and of
            hue, h for a rotation by -h to h of the colour wheel.
    """
    return [v2.ColorJitter(*color_jitter)] if any(color_jitter) else []


def flip_and_normalise(flip: bool, mean: Sequence[float], std: Sequence[float]) -> list[v2.Transform]:
    """The last transforms of an image and its labels.

    Args:
        flip: whether half of the images are mirrored.
        mean: of red, green and blue, in 0..1.
        std: likewise.
    """
    steps: list[v2.Transform] = [v2.RandomHorizontalFlip()] if flip else []
    steps.append(v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True))
    return [*steps, v2.Normalize(list(mean), list(std), inplace=True)]


def strings(values: Sequence[str]) -> NDArray[Any]:
    """Store text in one block of memory, each at its own length; loader processes share it without copying."""
    return np.array(values, dtype=np.dtypes.StringDType())
