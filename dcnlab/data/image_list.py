"""Reads lists of images and labels: root/SPLIT.txt, a line `image label` for each image, paths inside root."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dcnlab.data.labels import (
    IGNORE,
    LabelledImages,
    check_classes,
    check_files,
    counted_lookup,
    ignored_value,
    lookup_of,
    names_of,
)
from dcnlab.io.errors import DataError
from dcnlab.io.files import read_bytes
from dcnlab.io.paths import inside
from dcnlab.io.text import nearest_and_all, one_line, shown

CLASSES_FILE = "classes.txt"

LARGEST = 256 * 2**20
"""Bytes of a list."""
MOST_LINES = 4_000_000
"""Of a list; a line that ends in two characters counts twice."""


def imagelist_pairs(
    root: str | Path,
    splits: str | Sequence[str],
    classes: Sequence[str] | None = None,
    ignore: int | None = None,
) -> LabelledImages:
    """Find the images that the lists of a folder name.

    Args:
        root: folder of the lists; the paths in them are relative to it and stay inside.
        splits: names of the lists without their ending, one or several.
        classes: class names in the order of the label values from 0 up, the ignored value left out; None reads
            root/classes.txt, a line a class: its name, or its value and its name.
        ignore: label value of pixels to leave out; None is 255.

    Raises:
        DataError: a list, a file or the classes are missing or not right; one line that names them.
    """
    folder, ignore = Path(root), ignored_value(ignore)
    if not folder.is_dir():
        raise DataError(
            f"data.root {folder} is not a folder; expected one that holds SPLIT.txt with lines `image label`"
        )
    pairs = [pair for name in names_of(splits) for pair in read_pairs(find_list(folder, name, folder), folder)]
    if classes is not None:
        names = check_classes(classes)
        lookup = counted_lookup(len(names), ignore)
    else:
        values = read_classes(folder / CLASSES_FILE, ignore)
        names = list(values.values())
        lookup = lookup_of({value: label for label, value in enumerate(values)} | {ignore: IGNORE})
    return LabelledImages(check_files(pairs, folder, splits), names, lookup)


def find_list(folder: Path, split: str, root: Path) -> Path:
    """Find the list of a split.

    Raises:
        DataError: there is none; one line with the nearest.
    """
    path = folder / f"{split}.txt"
    splits = sorted(entry.stem for entry in folder.glob("*.txt") if entry.name not in (CLASSES_FILE, "README.txt"))
    if split not in splits:
        near = nearest_and_all(split, splits)
        raise DataError(f"data.root {root} has no split {split!r} ({path} is missing); {near}")
    return path


def read_lines(path: Path) -> list[tuple[int, str]]:
    """Read the lines of a list that are not blank, with their numbers from 1.

    Raises:
        DataError: the file cannot be read as text; one line.
    """
    try:
        content = read_bytes(path, LARGEST)
        lines = content.count(b"\n") + content.count(b"\r")
        if lines > MOST_LINES:
            raise DataError(f"it has {lines} lines; allowed are {MOST_LINES}")
        text = content.decode("utf-8-sig")
    except (OSError, ValueError, MemoryError) as error:
        raise DataError(f"{path} cannot be read as text ({one_line(error)})") from error
    return [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]


def read_pairs(path: Path, root: Path, prefix: str = "") -> list[tuple[Path, Path]]:
    """Read lines `image label`, separated by a tab, else by a comma, else by spaces.

    Args:
        path: of the list.
        root: folder that the paths in it are relative to.
        prefix: start of a path that stands for the root.

    Raises:
        DataError: a line is not two paths inside the root; one line with the list and the line's number.
    """
    pairs = []
    for number, line in read_lines(path):
        separator = next((mark for mark in "\t," if mark in line), None)
        fields = [part.strip() for part in line.split(separator)]
        if len(fields) != 2 or not all(fields):
            raise DataError(
                f"{path} line {number} is {shown(line)}, should be `image label`; "
                "names with spaces in them need a tab or a comma between"
            )
        image, label = (inside(root, part.removeprefix(prefix), f"{path} line {number}") for part in fields)
        pairs.append((image, label))
    return pairs


def read_classes(path: Path, ignore: int = IGNORE) -> dict[int, str]:
    """Read class names: lines `name`, numbered from 0 without the ignored value, or lines `value name` on every line.

    Returns:
        Name of each label value, ascending, without the ignored one.

    Raises:
        DataError: the file is missing or a line is not right; one line.
    """
    if not path.is_file():
        raise DataError(f"data.classes is null and {path} is missing; give the class names in one of the two")
    lines = [line for _, line in read_lines(path)]
    numbered = [line.split(maxsplit=1) for line in lines]
    if not all(len(parts) == 2 and parts[0].isdecimal() for parts in numbered):
        check_classes(lines, str(path))
        values = [value for value in range(len(lines) + 1) if value != ignore]
        return dict(zip(values, lines, strict=False))
    names: dict[int, str] = {}
    for value, name in sorted((int(value), name) for value, name in numbered):
        if value in names or value > 255:
            raise DataError(f"{path} gives the value {value} to {name!r}; values are 0 to 255, each once")
        names[value] = name
    names.pop(ignore, None)
    check_classes(list(names.values()), str(path))
    return names
