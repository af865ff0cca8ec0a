"""Fold: one fold of a data set, which tests, and the other images, which train and validate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dcnlab.data.labels import names_of
from dcnlab.io.errors import DataError

HELD_OUT = 10
"""One of so many images of the other folds validates."""

Rule = Callable[[NDArray[np.integer], int], NDArray[np.integer]]
"""Takes the labels (N,) of images in their order and a number of parts; gives the part (N,) of each image, from 0."""


def blocks(labels: NDArray[np.integer], count: int) -> NDArray[np.integer]:
    """Cut the images into blocks of neighbours, for frames of a sequence, which resemble each other."""
    return np.arange(len(labels)) * count // len(labels)


def interleaved(labels: NDArray[np.integer], count: int) -> NDArray[np.integer]:
    """Deal the images out to the parts in turn."""
    return np.arange(len(labels)) % count


def stratified(labels: NDArray[np.integer], count: int) -> NDArray[np.integer]:
    """Deal the images out in turn, class by class, so that all parts have the same mixture of classes."""
    parts = np.empty(len(labels), np.int64)
    parts[np.argsort(labels, kind="stable")] = np.arange(len(labels)) % count
    return parts


@dataclass(frozen=True)
class Parts:
    """Positions of the images of each split; without validation `val` is None."""

    train: NDArray[np.intp]
    val: NDArray[np.intp] | None
    test: NDArray[np.intp]


@dataclass(frozen=True)
class Fold:
    """Fold `number` of `count`, from 1.

    The same images are in it on every rank and for every seed.
    """

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def parts(self, labels: NDArray[np.integer], rule: Rule, validated: str | None) -> Parts:
        """Cut a data set.

        Args:
            labels: (N,) of the images in their order.
            rule: says which images make a fold.
            validated: test, on the fold itself | rest, on a tenth of the other images | None, not at all.

        Raises:
            DataError: there are too few images; one line.
        """
        fold_of = rule(labels, self.count) if len(labels) else np.empty(0, np.int64)
        test, rest = np.flatnonzero(fold_of == self.number - 1), np.flatnonzero(fold_of != self.number - 1)
        if len(labels) < self.count or len(rest) < 2:
            raise DataError(f"data.fold is {self}, and the data set has {len(labels)} images; take fewer folds")
        if validated != "rest":
            return Parts(rest, test if validated == "test" else None, test)
        held = rule(labels[rest], HELD_OUT) == 0
        return Parts(rest[~held], rest[held], test)


def all_names(*splits: str | Sequence[str] | None) -> list[str]:
    """Names of the splits, each once; None names none."""
    return list(dict.fromkeys(name for names in splits if names is not None for name in names_of(names)))


def validated_on(val: str | Sequence[str] | None, test: str | Sequence[str]) -> str | None:
    """What validates where a data set is cut: test | rest, see `Fold.parts` | None, as `data.val` is.

    Args:
        val: `data.val`.
        test: `data.test`.
    """
    if val is None:
        return None
    return "test" if names_of(val) == names_of(test) else "rest"
