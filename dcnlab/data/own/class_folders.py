"""Finds folders of images by class, with or without folders of splits above them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dcnlab.data.own.folders import holds_below, split_folders, subfolders
from dcnlab.data.own.splits import WHOLE


@dataclass(frozen=True)
class ClassFolders:
    """The folder that holds the class folders, by split."""

    folders: dict[str, Path]


def find_class_folders(root: Path) -> ClassFolders | None:
    """Find folders of images by class; None: there are fewer than two."""
    splits = {folder.name: folder for folder in split_folders(root) if classes_in(folder)}
    if splits:
        return ClassFolders(splits)
    return ClassFolders({WHOLE: root}) if len(classes_in(root)) >= 2 else None


def classes_in(folder: Path) -> list[str]:
    """The folders in a folder that hold images, by name."""
    return [inner.name for inner in subfolders(folder) if holds_below(inner)]
