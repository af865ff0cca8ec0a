"""VOC's classes, its folders of a year each, and its lists of images."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from dcnlab.data.image_list import CLASSES_FILE, read_classes, read_lines
from dcnlab.io.errors import DataError
from dcnlab.io.paths import check_relative
from dcnlab.io.text import shown

OBJECTS = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
"""Class names in the order of their labels from 1."""

_COLUMNS = re.compile(r"(.*\S)\s+(-1|0|1)")
"""A line of a class list: 1 the class is there, 0 it is there but difficult, -1 it is not."""


def devkit_of(root: Path) -> Path:
    """The folder that holds the years: VOCdevkit in the root, or the root itself."""
    return root / "VOCdevkit" if (root / "VOCdevkit").is_dir() else root


def years_of(root: Path, part: str | Path, pattern: str = "*") -> dict[str, Path]:
    """Find the folders of the years, by year.

    Args:
        root: folder that holds VOCdevkit, or VOCdevkit itself.
        part: a folder that each year has, relative to the year.
        pattern: of the years' names.
    """
    depth = len(Path(part).parts)
    folders = sorted(path.parents[depth - 1] for path in devkit_of(root).glob(f"{pattern}/{part}") if path.is_dir())
    return {path.name.removeprefix("VOC"): path for path in folders}


def read_names(path: Path, known: Callable[[str], bool]) -> list[tuple[int, str]]:
    """Read the images of a list, as a list of names or as a class list; the whole file decides which.

    In a class list, every line ends in -1, 0 or 1, the first columns are images, and no whole line is one. Images
    without the class (-1) are left out, and may be missing. In any other list, the whole line is the name.

    Args:
        path: of the list.
        known: whether there is an image of a name.

    Returns:
        Number of the line, from 1, and name. Names may be missing from the folder; the caller says so.

    Raises:
        DataError: the list cannot be read, a name leaves the folder, or the lines contradict one another; one line.
    """
    lines = read_lines(path)
    columns = []
    for number, line in lines:
        match = _COLUMNS.fullmatch(line)
        check_relative(match[1] if match else line, f"{path} line {number}")
        if match:
            columns.append(match)
    if len(columns) < len(lines):
        return lines
    whole = [known(line) for _, line in lines]
    first = [known(match[1]) for match in columns]
    if all(whole) or not any(whole + first):
        return lines
    if any(whole):
        (number, line), (other, name) = lines[whole.index(False)], lines[whole.index(True)]
        raise DataError(
            f"{path} line {number}: there is no image {shown(line)}, but line {other} is the image {shown(name)}; "
            "either all lines are names, or all are a name and -1, 0 or 1"
        )
    right = [match[2] == "-1" or is_image for match, is_image in zip(columns, first, strict=True)]
    if not all(right):
        wrong = right.index(False)
        number, line = lines[wrong]
        raise DataError(f"{path} line {number}: there is neither an image {shown(line)} nor {shown(columns[wrong][1])}")
    names: dict[str, int] = {}
    for (number, _), match in zip(lines, columns, strict=True):
        if match[1] in names:
            raise DataError(f"{path} line {number} names {shown(match[1])} again, after line {names[match[1]]}")
        names[match[1]] = number
    return [(number, match[1]) for (number, _), match in zip(lines, columns, strict=True) if match[2] != "-1"]


def listed_classes(root: Path, ignore: int) -> dict[int, str] | None:
    """The classes of segmentation that root/classes.txt lists, in the folder of VOC's layout or above its years.

    The file may be the one of detection, with the names of the objects alone: VOC's value 0 is the background, unless
    the file gives another name to that value, lists the background itself, or 0 is ignored.

    Args:
        root: folder of the data set.
        ignore: label value of pixels to leave out.

    Returns:
        Name of each label value, ascending, without the ignored one; None without such a file.

    Raises:
        DataError: the file is not right; one line.
    """
    path = next((path for path in _class_files(root) if path.is_file()), None)
    if path is None:
        return None
    names = read_classes(path, ignore)
    is_numbered = all(line.split(maxsplit=1)[0].isdecimal() for _, line in read_lines(path))
    if ignore == 0 or any(_is_background(name) for name in names.values()) or (is_numbered and 0 in names):
        return names
    if not is_numbered:
        values = [value for value in range(1, len(names) + 2) if value != ignore]
        names = dict(zip(values, names.values(), strict=False))
    return {0: "background", **names}


def listed_objects(path: Path) -> list[str]:
    """The classes of detection that a classes.txt lists: names, or values and names; the background is left out.

    Raises:
        DataError: the file cannot be read as text.
    """
    lines = [line for _, line in read_lines(path)]
    parts = [line.split(maxsplit=1) for line in lines]
    if all(len(part) == 2 and part[0].isdecimal() for part in parts):
        lines = [name for _, name in sorted((int(value), name) for value, name in parts) if not _is_background(name)]
    return lines


def _class_files(root: Path) -> list[Path]:
    folders = [root, *sorted(root.glob("VOC*")), *sorted(root.glob("VOCdevkit/VOC*")), root / "VOCdevkit"]
    return [folder / CLASSES_FILE for folder in folders]


def _is_background(name: str) -> bool:
    return name.casefold().strip("_") == "background"
