"""The categories and images that a file in COCO's form lists, checked."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from dcnlab.data.detection.annotations import check_class, check_names
from dcnlab.io.errors import DataError
from dcnlab.io.ids import in_order, positions
from dcnlab.io.paths import check_relative
from dcnlab.io.text import shown

LONGEST_SIDE = 1_000_000
"""Pixels of an image."""


def read_categories(
    entries: Sequence[dict[str, Any]], path: Path, classes: Sequence[str] | None
) -> tuple[list[str], list[Any], dict[Any, int]]:
    """Read the categories of a file.

    Args:
        entries: `categories` of the file.
        path: of the file.
        classes: chosen names in the order of their labels; None chooses all in the order of their ids.

    Returns:
        Names and ids of the chosen ones in the order of their labels; and the label of every id, 0 if it is not chosen.

    Raises:
        DataError: an id or name is not right or there twice, or a chosen name is unknown; one line.
    """
    id_of: dict[str, Any] = {}
    for number, entry in zip(positions(_ids(entries), "category", f"{path} "), entries, strict=True):
        name = entry.get("name")
        if not isinstance(name, str) or not name.isprintable() or not name:
            raise DataError(f"{path} category {shown(number)} has the name {shown(name)}, should be a line of text")
        if name in id_of:
            raise DataError(f"{path} category {shown(number)} has the name {shown(name)}, which another has too")
        id_of[name] = number
    ordered = sorted(id_of, key=lambda name: in_order(id_of[name]))
    names = ordered if classes is None else list(classes)
    check_names(names, f"the categories of {path}" if classes is None else "data.classes")
    for name in classes or ():
        check_class(name, ordered, "data.classes", f"the categories of {path}")
    label_of = dict.fromkeys(id_of.values(), 0) | {id_of[name]: label for label, name in enumerate(names, 1)}
    return names, [id_of[name] for name in names], label_of


def read_images(
    entries: Sequence[dict[str, Any]], path: Path, root: Path, folder: Path
) -> tuple[list[str], list[Any], list[tuple[int, int]]]:
    """Read the images of a file.

    Args:
        entries: `images` of the file.
        path: of the file.
        root: folder that the returned files are relative to.
        folder: inside the root, that `file_name` is relative to.

    Returns:
        Files, ids, and heights and widths in pixels.

    Raises:
        DataError: there is no image, or one is missing or not right; one line.
    """
    if not entries:
        raise DataError(f"{path} names no image")
    parent = PurePosixPath(folder.relative_to(root).as_posix())
    exists = _listing(folder)
    files: list[str] = []
    sizes: list[tuple[int, int]] = []
    ids = list(positions(_ids(entries), "image", f"{path} "))
    for number, entry in zip(ids, entries, strict=True):
        source, name = f"{path} image {shown(number)}", entry.get("file_name")
        if not isinstance(name, str):
            raise DataError(f"{source} has the file_name {shown(name)}, should be text")
        check_relative(name, source)
        if not exists(name):
            raise DataError(f"{folder / name}, which {source} names, is missing; data.images names another folder")
        height, width = (entry.get(side) for side in ("height", "width"))
        if not (type(height) is type(width) is int and 1 <= height <= LONGEST_SIDE and 1 <= width <= LONGEST_SIDE):
            raise DataError(
                f"{source} has the height {shown(height)} and width {shown(width)}, should be whole pixels from 1 to "
                f"{LONGEST_SIDE}"
            )
        files.append(str(parent / name))
        sizes.append((height, width))
    return files, ids, sizes


def _ids(entries: Sequence[dict[str, Any]]) -> list[Any]:
    return [entry.get("id") for entry in entries]


def _listing(root: Path) -> Callable[[str], bool]:
    """Tell whether files exist, a folder listed once: one look per file takes minutes over a network."""
    listed: dict[str, set[str]] = {}

    def exists(name: str) -> bool:
        parent, _, stem = name.rpartition("/")
        if parent not in listed:
            try:
                listed[parent] = set(os.listdir(root / parent))
            except OSError:
                listed[parent] = set()
        return stem in listed[parent]

    return exists
