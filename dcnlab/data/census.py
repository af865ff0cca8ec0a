"""Counts the classes in a split's labels when a run starts, and reports those that are absent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcnlab.data.labels import IGNORE
from dcnlab.io.errors import DataError

MOST_READ = 200
"""Label files of a split that are read; a larger split is sampled evenly."""

_NAMED = 5
"""Classes that a warning names; the rest are counted."""


@dataclass(frozen=True)
class Census:
    """Counts of the classes in the labels of one split."""

    classes: tuple[str, ...]
    """Class names in the order of their labels."""
    counts: NDArray[np.int64]
    """(C,) pixels or boxes of each class, of those that train or are scored."""
    labels: int
    """Images whose labels were read."""
    images: int
    """Images of the split."""
    pixels: bool = False
    """Whether pixels were counted, not boxes."""
    values: NDArray[np.int64] | None = None
    """(256,) pixels of each value in the label files, where pixels were counted."""
    ignored: tuple[int, ...] = ()
    """Values that neither train nor score."""

    @property
    def empty(self) -> bool:
        """Whether no label holds a class."""
        return not self.counts.any()

    @property
    def absent(self) -> tuple[str, ...]:
        """Names of the classes that no label holds."""
        return tuple(name for name, count in zip(self.classes, self.counts, strict=True) if not count)

    @property
    def mask(self) -> tuple[int, int] | None:
        """The value that counts and the one that is ignored, where the label files hold these two alone."""
        values = [] if self.values is None else np.flatnonzero(self.values).tolist()
        used = [value for value in values if value not in self.ignored]
        return (used[0], self.ignored[0]) if len(used) == len(self.ignored) == 1 else None

    @property
    def nothing(self) -> str:
        """Describe an empty split, for a warning."""
        if self.pixels:
            return f"no pixel with a class, only ignored ones, in its {self.labels} labels"
        return f"no box that counts in its {self.images} images"


def count_pixels(
    paths: Sequence[str],
    read: Callable[[Path], NDArray[np.integer]],
    classes: Sequence[str],
    lookup: NDArray[np.uint8],
    most: int = MOST_READ,
) -> Census:
    """Count the pixels of each class; files that cannot be read are skipped, and the run itself will name them.

    Args:
        paths: label files.
        read: reads the values of one.
        classes: names in the order of their labels.
        lookup: (256,) label of each value; values from C up are not a class.
        most: files to read. If none of these has a pixel of a class, more are read until one has.
    """
    chosen = np.unique(np.linspace(0, len(paths) - 1, min(most, len(paths))).round().astype(int)).tolist()
    rest = sorted(set(range(len(paths))) - set(chosen))
    values, is_class, done = np.zeros(256, np.int64), lookup < len(classes), 0
    for number in (*chosen, *rest):
        if done >= len(chosen) and values[is_class].any():
            break
        done += 1
        try:
            pixels = read(Path(paths[number]))
        except DataError:
            continue
        values += np.bincount(pixels[(pixels >= 0) & (pixels < 256)].ravel(), minlength=256)
    counts = np.bincount(lookup[is_class], values[is_class], len(classes)).astype(np.int64)
    ignored = tuple(np.flatnonzero((lookup == IGNORE) & (values > 0)).tolist())
    return Census(tuple(classes), counts, done, len(paths), True, values, ignored)


def warnings_of(splits: dict[str, Census]) -> list[str]:
    """Warn of splits without any class and of classes that no label holds, a line each.

    Args:
        splits: by key of the config, such as data.train.
    """
    lines = []
    for key, census in splits.items():
        if census.empty:
            lost = "val/... is not scored" if key == "data.val" else "it is run, but there is nothing to score"
            lines.append(f"warning: {key} has {census.nothing}; {lost}")
    alike: dict[tuple[Any, ...], dict[str, Census]] = {}
    for key, census in splits.items():
        if not census.empty and census.absent:
            alike.setdefault((census.absent, census.mask), {})[key] = census
    return [*lines, *map(_absence, alike.values())]


def _absence(splits: dict[str, Census]) -> str:
    """Name the classes that some splits lack."""
    counts = list(splits.values())
    absent = counts[0].absent
    names = ", ".join(map(repr, absent[:_NAMED])) + (f" and {len(absent) - _NAMED} more" if absent[_NAMED:] else "")
    subject = f"class {names} is" if len(absent) == 1 else f"classes {names} are"
    where = [
        f"{key} ({census.labels} of {census.images} labels read)" if census.pixels else key
        for key, census in splits.items()
    ]
    return f"warning: {subject} in no label of {', '.join(where)}{_hint(counts)}"


def _hint(counts: Sequence[Census]) -> str:
    """Explain labels that look like masks of 0 and 255, whose objects are ignored."""
    mask = counts[0].mask
    if mask is None:
        return ""
    values: NDArray[np.int64] = sum(each.values for each in counts if each.values is not None)  # type: ignore[assignment]
    used, ignored = mask
    percent = 100 * values[ignored] / values.sum()
    spare = next(number for number in range(254, 0, -1) if not values[number])
    return (
        f"; next to {used} the only value there is {ignored}, which is ignored ({percent:.0f}% of the pixels). If that "
        f"is a class, write it as 1 in the label files, or (imagelist) write `{used} NAME` and `{ignored} NAME` into "
        f"classes.txt and set data.ignore={spare}"
    )
