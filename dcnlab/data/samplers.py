"""Which images a process loads, in training and in evaluation, with one process or many."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler


class TrainingSampler(Sampler[tuple[int, int]]):
    """A new order in every pass over the data, known from the seed and the pass alone, shared out among the processes.

    Yields pairs (pass, index), so that a data set can derive an image's augmentation from them. All processes get
    equally many images: what is left over when the images do not divide by the processes sits out one pass.

    Args:
        length: images in the data set.
        seed: of the order.
        rank: this process, from 0.
        world: number of processes.
        step: images that a process takes for a step of the optimizer. Those left over at the end of a pass sit out,
            where there are enough for a step: so many processes or so many, a pass has the same steps.
        start: where a resumed training goes on: the pass, and how many images of it this process has had.
    """

    def __init__(
        self, length: int, seed: int = 0, rank: int = 0, world: int = 1, step: int = 1, start: tuple[int, int] = (0, 0)
    ) -> None:
        self.length, self.seed, self.rank, self.world, self.step = length, seed, rank, world, step
        # Loader processes ask for the first batches before Lightning has said which pass it is.
        self.start, self.epoch = start, start[0]

    def set_epoch(self, epoch: int) -> None:
        """Say which pass comes next; Lightning calls this before each."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        # Both numbers in one seed: seed 0's second pass must not be seed 1's first.
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.length, generator=generator)
        had = self.start[1] if self.epoch == self.start[0] else 0
        for index in order[self.rank : len(self) * self.world : self.world][had:].tolist():
            yield self.epoch, index

    def __len__(self) -> int:
        share = self.length // self.world
        return share // self.step * self.step or share


class EvaluationSampler(Sampler[int]):
    """Every image once over all processes: process r takes r, r + world, ... and nothing is padded.

    Processes may get one image more or fewer than others, so metrics must sum counts, never average averages.

    Args:
        length: images in the data set.
        rank: this process, from 0.
        world: number of processes.
    """

    def __init__(self, length: int, rank: int = 0, world: int = 1) -> None:
        self.indices = range(rank, length, world)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)
