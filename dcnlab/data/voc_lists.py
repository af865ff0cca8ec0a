"""VOC's lists of images: a name in each line; in the list of a class, also whether the class is present."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from dcnlab.data.image_list import read_lines
from dcnlab.io.errors import DataError
from dcnlab.io.paths import check_relative
from dcnlab.io.text import shown

_COLUMNS = re.compile(r"(.*\S)\s+(-1|0|1)")
"""A line of a class list: 1 the class is there, 0 it is there but difficult, -1 it is not."""


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
        found = _COLUMNS.fullmatch(line)
        check_relative(found[1] if found else line, f"{path} line {number}")
        if found:
            columns.append(found)
    if len(columns) < len(lines):
        return lines
    whole = [known(line) for _, line in lines]
    first = [known(found[1]) for found in columns]
    if all(whole) or not any(whole + first):
        return lines
    if any(whole):
        (number, line), (other, name) = lines[whole.index(False)], lines[whole.index(True)]
        raise DataError(
            f"{path} line {number}: there is no image {shown(line)}, but line {other} is the image {shown(name)}; "
            "either all lines are names, or all are a name and -1, 0 or 1"
        )
    there = [found[2] == "-1" or is_image for found, is_image in zip(columns, first, strict=True)]
    if not all(there):
        at = there.index(False)
        number, line = lines[at]
        raise DataError(f"{path} line {number}: there is neither an image {shown(line)} nor {shown(columns[at][1])}")
    names: dict[str, int] = {}
    for (number, _), found in zip(lines, columns, strict=True):
        if found[1] in names:
            raise DataError(f"{path} line {number} names {shown(found[1])} again, after line {names[found[1]]}")
        names[found[1]] = number
    return [(number, found[1]) for (number, _), found in zip(lines, columns, strict=True) if found[2] != "-1"]
