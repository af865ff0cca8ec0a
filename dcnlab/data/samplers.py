"""Samplers: which images a rank loads, in training and in evaluation."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler


class TrainingSampler(Sampler[tuple[int, int]]):
    """A new order in every epoch, known from the seed and the epoch alone, dealt out to the ranks in whole batches.

    Yields pairs (epoch, index), so that a data set can derive an image's augmentation from them. A batch holds the same
    images on any number of ranks, for images of several sizes are padded to the largest of their batch. All ranks get
    equally many images: those left over sit out one epoch. Of fewer images than ranks each rank gets one, and some
    ranks the same.

    Args:
        length: images in the data set.
        seed: of the order.
        rank: this rank, from 0.
        world: number of ranks.
        batch: images that a rank loads at a time.
        step: images that a rank takes for a step of the optimizer. Those left over at the end of an epoch sit out,
            where there are enough for a step: an epoch has the same steps on any number of ranks.
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
        """Say which epoch comes next; Lightning calls this before each."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        # Both numbers in one seed: seed 0's second epoch must not be seed 1's first.
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.length, generator=generator)
        had = self.start[1] if self.epoch == self.start[0] else 0
        for place in self._places()[had:]:
            yield self.epoch, int(order[place])

    def _places(self) -> list[int]:
        """Where this rank's images stand in the order: of each round of batches its own; the last may be shorter."""
        places: list[int] = []
        for first in range(0, len(self), self.batch):
            size = min(self.batch, len(self) - first)
            begin = first * self.world + self.rank * size
            places += range(begin, begin + size)
        return [place % self.length for place in places]

    def __len__(self) -> int:
        share = self.length // self.world or min(self.length, 1)
        return share // self.step * self.step or share


class EvaluationSampler(Sampler[int]):
    """Every image once over all ranks: rank r takes r, r + world, ... and nothing is padded.

    Ranks may get one image more or fewer than others, so metrics must sum counts, never average averages.

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
