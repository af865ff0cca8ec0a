"""Samplers: which images a rank loads, in training and in evaluation."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler


class TrainingSampler(Sampler[tuple[int, int]]):
    """A new order in every epoch, a function of seed and epoch, distributed over the ranks in whole batches.

    Yields pairs (epoch, index), from which a data set derives an image's augmentation. A batch holds the same images on
    any number of ranks, because images of several sizes are padded to the largest of their batch. All ranks get equally
    many images; those left over are skipped in this epoch. With fewer images than ranks, each rank gets one image, and
    some ranks get the same.

    Args:
        length: images in the data set.
        seed: of the order.
        rank: this rank, from 0.
        world: number of ranks.
        batch: images that a rank loads at a time.
        step: images that a rank takes for a step of the optimizer. Images left over at the end of an epoch are
            skipped if the epoch has at least one whole step: it has the same steps on any number of ranks.
        start: where a training resumes: the epoch, and how many images of it this rank has had.
    """

    def __init__(
        self,
        length: int,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        batch: int = 1,
        step: int = 1,
        start: tuple[int, int] = (0, 0),
    ) -> None:
        self.length, self.seed, self.rank, self.world = length, seed, rank, world
        self.batch, self.step = batch, step
        # Loader processes ask for the first batches before Lightning has said which epoch it is.
        self.start, self.epoch = start, start[0]

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; Lightning calls this before each."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        # Both numbers in one seed: seed 0's second epoch must not be seed 1's first.
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.length, generator=generator)
        had = self.start[1] if self.epoch == self.start[0] else 0
        for position in self._positions()[had:]:
            yield self.epoch, int(order[position])

    def _positions(self) -> list[int]:
        """Positions of this rank's images in the order: one batch of each round of batches; the last may be shorter."""
        positions: list[int] = []
        for first in range(0, len(self), self.batch):
            size = min(self.batch, len(self) - first)
            begin = first * self.world + self.rank * size
            positions += range(begin, begin + size)
        return [position % self.length for position in positions]

    def __len__(self) -> int:
        images = self.length // self.world or min(self.length, 1)
        return images // self.step * self.step or images


class EvaluationSampler(Sampler[int]):
    """Every image once over all ranks: rank r takes r, r + world, ... and no image is repeated.

    Some ranks get one image more than others, so metrics must sum counts and must not average averages.

    Args:
        length: images in the data set.
        rank: this rank, from 0.
        world: number of ranks.
    """

    def __init__(self, length: int, rank: int = 0, world: int = 1) -> None:
        self.indices = range(rank, length, world)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)
