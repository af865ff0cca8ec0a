"""SplitsDataModule: the LightningDataModule of three splits that all data sets of the package use.

Its samplers distribute the images over the ranks: a Trainer of several ranks needs `use_distributed_sampler=False`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Sized
from typing import Any, TypeVar

import torch
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, default_collate

from dcnlab.data import loaders
from dcnlab.data import workers as loader_processes
from dcnlab.data.own.found import Own
from dcnlab.data.samplers import EvaluationSampler, TrainingSampler
from dcnlab.io.errors import DataError
from dcnlab.io.text import nearest_and_all

Reader = TypeVar("Reader", bound=Callable[..., Any])


class SplitsDataModule(LightningDataModule):
    """Loaders over three data sets: a seeded new order in training, each image once in evaluation.

    Args:
        train: takes pairs (epoch, index), see `TrainingSampler`.
        val: scored during training; None scores none.
        test: scored at the end.
        classes: class names in the order of their labels.
        batch_size: images a rank loads at a time.
        workers: loader processes; 0 loads in the training process. If CPUs or shared memory are too few for them, a
            warning states how many are started.
        seed: of the training order.
        collate: makes a batch of a list of items; None stacks their tensors.
        evaluation_batch_size: images at a time in evaluation; None is batch_size.
    """

    def __init__(
        self,
        train: Dataset[Any],
        val: Dataset[Any] | None,
        test: Dataset[Any],
        classes: Sequence[str],
        batch_size: int = 64,
        workers: int = 0,
        seed: int = 0,
        collate: Callable[[list[Any]], Any] | None = None,
        evaluation_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        self.collate, self.evaluation_batch_size = collate, evaluation_batch_size or batch_size
        self.train, self.val, self.test = train, val, test
        self.classes = list(classes)
        self.batch_size, self.workers, self.seed = batch_size, workers, seed
        self.start = (0, 0)
        """Where a resumed training continues: the epoch, and how many of its batches this rank has had."""
        self._told: set[str] = set()
        self.own: Own[Any] | None = None
        """What was found in a folder of one's own; None for other data sets."""

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches in a new order every epoch; an incomplete last step is left out, unless it is the only one.

        With fewer images than ranks, each rank takes one image, and some images are taken twice.
        """
        images, (_, world) = _length(self.train), self._share()
        if images < world:
            self._tell(f"data.train has {images} images for {world} ranks; each takes one, some of them the same")
        batches = 1 if self.trainer is None else self.trainer.accumulate_grad_batches
        start = (self.start[0], self.start[1] * self.batch_size)
        step = self.batch_size * batches
        sampler = TrainingSampler(images, self.seed, *self._share(), self.batch_size, step, start)
        drop_last = len(sampler) >= self.batch_size
        return self._loader(self.train, sampler, self.batch_size, drop_last)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Batches of the validation split, each image once over all ranks; no batch without a split."""
        return [] if self.val is None else self._evaluation("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """Batches of the test split, each image once over all ranks."""
        return self._evaluation("test")

    def _evaluation(self, key: str) -> DataLoader[Any]:
        dataset = getattr(self, key)
        sampler = EvaluationSampler(_length(dataset), *self._share())
        if not len(sampler):
            # Lightning leaves a rank without batches out of the evaluation, and the other ranks would wait for it.
            return DataLoader(_NoImages(dataset, self.collate or default_collate), batch_size=None)
        return self._loader(dataset, sampler, self.evaluation_batch_size)

    def _share(self) -> tuple[int, int]:
        """Rank and world size; (0, 1) without a trainer."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _loader(self, dataset: Dataset[Any], sampler: Any, batch_size: int, drop_last: bool = False) -> DataLoader[Any]:
        ranks = 1 if self.trainer is None else self.trainer.num_devices
        workers, note = loader_processes.choose(self.workers, dataset, sampler, batch_size, ranks)
        if note is not None:
            self._tell(note)
        if workers:
            loaders.claim_folder()
        return DataLoader(
            dataset,
            batch_size,
            sampler=sampler,
            collate_fn=self.collate,
            drop_last=drop_last,
            num_workers=workers,
            persistent_workers=workers > 0,
            worker_init_fn=loaders.begin if workers else None,
            pin_memory=torch.cuda.is_available(),
        )

    def _tell(self, note: str) -> None:
        """Print a note once, on rank 0."""
        if self._share()[0] == 0 and note not in self._told:
            self._told.add(note)
            loader_processes.tell(note)


class _NoImages(Dataset[Any]):
    """A single batch of no images, in the form of a data set's batches."""

    def __init__(self, dataset: Dataset[Any], collate: Callable[[list[Any]], Any]) -> None:
        self.dataset, self.collate = dataset, collate

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Any:
        return tuple(part[:0] for part in self.collate([self.dataset[0]]))


def reader_of(name: str, readers: Mapping[str, Reader], lack: str) -> Reader:
    """Find the reader of `data.name`.

    Args:
        name: of the data set.
        readers: by name.
        lack: what a data set without a reader lacks.

    Raises:
        DataError: there is none; one line with the nearest name.
    """
    if name not in readers:
        raise DataError(f"data.name is {name!r}, which has no {lack}; {nearest_and_all(name, readers)}")
    return readers[name]


def collate_lists(items: list[tuple[Any, ...]]) -> tuple[list[Any], ...]:
    """Make a batch of items that do not stack, such as images of different sizes: a list of each part."""
    return tuple(list(part) for part in zip(*items, strict=True))


def _length(dataset: Dataset[Any]) -> int:
    assert isinstance(dataset, Sized)
    return len(dataset)
