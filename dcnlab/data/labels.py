"""Label files of segmentation: reading their values, and the class of each value."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dcnlab.io.errors import DataError
from dcnlab.io.files import open_regular
from dcnlab.io.image_file import decode, opened
from dcnlab.io.text import nearest_and_all

IGNORE = 255
"""Label of pixels that neither train nor score, whatever value the files use."""

OUTSIDE = 254
"""In a lookup: a value that no label file may hold."""

MOST_CLASSES = 254
"""The values above are IGNORE and OUTSIDE."""


def read_label(path: Path) -> NDArray[np.integer]:
    """Read the values of a picture of one channel as they are stored: grey values, or indices of a palette's colours.

    Returns:
        (H, W).

    Raises:
        DataError: it cannot be read, is too large, or has more than one channel; one line that names the file.
    """
    with opened(path, "a label") as label:
        decode(label)
        mode, depth = label.mode, _bits_of_grey(path) if label.format == "PNG" and label.mode == "L" else 8
        values = np.asarray(label)
    if values.ndim != 2 or values.dtype.kind not in "uib":
        raise DataError(
            f"{path} is a picture of mode {mode}; a label has one channel of class numbers (grey or palette)"
        )
    if depth < 8:  # PIL stretches 2 and 4 bits of grey to 0 to 255
        values = values // np.uint8(255 // (2**depth - 1))
    return values.astype(np.uint8) if values.dtype == bool else values


@dataclass(frozen=True)
class LabelledImages:
    """The images of one split or several, their labels, and the meaning of the labels' values."""

    pairs: list[tuple[Path, Path]]
    """Image and label, which is there for every image."""
    classes: list[str]
    """Class names in the order of their labels."""
    lookup: NDArray[np.uint8]
    """(256,): the label 0..C-1, IGNORE or OUTSIDE of each value in the files."""
    read: Callable[[Path], NDArray[np.integer]] = field(default=read_label)
    """Reads the values of a label file."""


def lookup_of(labels: Mapping[int, int]) -> NDArray[np.uint8]:
    """Tabulate the label of each value 0 to 255 in the files; values that `labels` leaves out are OUTSIDE."""
    lookup = np.full(256, OUTSIDE, np.uint8)
    for value, label in labels.items():
        lookup[value] = label
    return lookup


def counted_lookup(classes: int, ignore: int = IGNORE) -> NDArray[np.uint8]:
    """Number the classes by the values from 0 up, leaving out the ignored one: 0..C-1, or 1..C where 0 is ignored."""
    values = [value for value in range(classes + 1) if value != ignore][:classes]
    return lookup_of({value: label for label, value in enumerate(values)} | {ignore: IGNORE})


def allowed_values(lookup: NDArray[np.uint8]) -> str:
    """Say in words which values the files may hold, such as `0 to 10 and, ignored, 11`."""
    classes, ignored = (_ranges(np.flatnonzero(chosen)) for chosen in (lookup < OUTSIDE, lookup == IGNORE))
    return f"{classes} and, ignored, {ignored}" if ignored else classes


def check_classes(classes: Sequence[str], field_name: str = "data.classes") -> list[str]:
    """Refuse an empty list, a class named twice, and more classes than a label file has values for.

    Raises:
        DataError: one line that names the field.
    """
    if not 1 <= len(classes) <= MOST_CLASSES:
        raise DataError(f"{field_name} names {len(classes)} classes, should be 1 to {MOST_CLASSES}")
    for name in classes:
        if list(classes).count(name) > 1:
            raise DataError(f"{field_name} names {name!r} twice")
    return list(classes)


def check_same_classes(
    root: str | Path, train: tuple[object, Sequence[str]], *others: tuple[object, Sequence[str]]
) -> None:
    """Refuse splits whose classes differ from the training split's, in name or order.

    Args:
        root: folder of the data set.
        train: name of the training split, and its classes.
        others: names of other splits, and their classes.

    Raises:
        DataError: they differ; one line that names the classes.
    """
    for split, classes in others:
        if list(classes) != list(train[1]):
            differing = ", ".join(sorted(set(classes) ^ set(train[1]))) or "another order"
            raise DataError(
                f"{root} has other classes in {split} than in {train[0]}: {differing}; "
                "data.classes chooses those to use"
            )


def choose_classes(chosen: Sequence[str] | None, known: Sequence[str], data_set: str) -> dict[str, int]:
    """Number the chosen classes of a data set with fixed classes; None chooses all.

    Returns:
        Label of each chosen name, in the order chosen.

    Raises:
        DataError: a name is unknown or chosen twice; one line with the nearest name.
    """
    names = check_classes(known if chosen is None else chosen)
    for name in names:
        if name not in known:
            raise DataError(
                f"data.classes names {name!r}, which {data_set} does not have; {nearest_and_all(name, known)}"
            )
    return {name: label for label, name in enumerate(names)}


def names_of(splits: str | Sequence[str]) -> list[str]:
    """List the names of one split or several.

    Raises:
        DataError: there is none.
    """
    if not splits:
        raise DataError(f"data.train, data.val or data.test is {splits!r}; name at least one split")
    return [splits] if isinstance(splits, str) else list(splits)


def ignored_value(ignore: int | None, default: int = IGNORE) -> int:
    """Check the label value to leave out; None is the data set's default.

    Raises:
        DataError: it is not a value that a label file can hold; one line.
    """
    if ignore is not None and not 0 <= ignore <= 255:
        raise DataError(f"data.ignore is {ignore}; label values are 0 to 255")
    return default if ignore is None else ignore


def check_files(pairs: Iterable[tuple[Path, Path]], root: Path, splits: str | Sequence[str]) -> list[tuple[Path, Path]]:
    """List the pairs, each once, and refuse missing files at the start of a run.

    Args:
        pairs: image and label.
        root: folder of the data set, for the error.
        splits: that they belong to, for the error.

    Raises:
        DataError: a file is missing, or there is no pair; one line.
    """
    unique, named = list(dict.fromkeys(pairs)), ", ".join(names_of(splits))
    if not unique:
        raise DataError(f"split {named} of {root} has no image")
    for pair in unique:
        for path, kind in zip(pair, ("image", "label"), strict=True):
            if not os.path.isfile(path):
                raise DataError(f"{kind} {path} is missing; split {named} of {root} needs it")
    return unique


def _bits_of_grey(path: Path) -> int:
    """Bits of a PNG's sample, from the byte after signature, chunk head and size; PIL does not report them."""
    with open_regular(path) as file:
        return file.read(25)[24]


def _ranges(values: NDArray[np.intp]) -> str:
    """Format ascending numbers as runs, such as `0 to 5, 7`."""
    runs = np.split(values, np.flatnonzero(np.diff(values) > 1) + 1) if len(values) else []
    return ", ".join(f"{run[0]}" if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)
