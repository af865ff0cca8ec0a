"""Helpers that find layouts: whether a folder holds files of some kind, and its sub-folders."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from dcnlab.data.own.splits import role_of
from dcnlab.io.image_file import ENDINGS

IMAGE_FOLDERS = ("JPEGImages", "images", "Images", "image", "imgs", "img")
"""Usual names of a folder of images."""


def holds(folder: Path, endings: Sequence[str] = ENDINGS) -> bool:
    """Whether a folder itself holds a file of some endings, in any case."""
    try:
        with os.scandir(folder) as entries:
            return any(entry.name.lower().endswith(tuple(endings)) and entry.is_file() for entry in entries)
    except OSError:
        return False


def holds_below(folder: Path, endings: Sequence[str] = ENDINGS) -> bool:
    """Whether a folder or a folder in it holds such a file."""
    return holds(folder, endings) or any(holds(inner, endings) for inner in subfolders(folder))


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder by name, without hidden ones."""
    try:
        return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith((".", "__")))
    except OSError:
        return []


def split_folders(folder: Path) -> list[Path]:
    """The folders in a folder that are named like a split."""
    return [inner for inner in subfolders(folder) if role_of(inner.name) is not None]


def first_folder(parent: Path, names: Iterable[str]) -> Path | None:
    """The first of some folders that exists."""
    return next((parent / name for name in names if (parent / name).is_dir()), None)


def voc_year(root: Path) -> Path:
    """The one year's folder of a VOCdevkit, or else the folder itself."""
    years = [path for parent in (root / "VOCdevkit", root) for path in parent.glob("VOC[0-9]*") if path.is_dir()]
    return years[0] if len(years) == 1 else root
