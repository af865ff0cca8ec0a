"""Files of class folders with their labels, and the images that are held out for validation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dcnlab.io.errors import DataError
from dcnlab.io.folders import files_below
from dcnlab.io.image_file import ENDINGS
from dcnlab.io.text import check_encodable, closest

HELD_OUT = 10
"""Without a validation folder, every tenth image of a class is held out of the training folder."""


def class_folders(folder: Path, chosen: Sequence[str] | None) -> list[str]:
    """The chosen class folders of a folder, or all of them by name.

    Raises:
        DataError: there are none, or a chosen one is missing or there twice; one line.
    """
    folders = _folders(folder)
    if not folders:
        raise DataError(f"{folder} has no class folders; expected {folder}/CLASS/IMAGE")
    if chosen is not None and len(set(chosen)) < len(chosen):
        raise DataError(f"data.classes names a class twice: {', '.join(chosen)}")
    for name in chosen or ():
        if name not in folders:
            near = closest(name, folders, cutoff=0)[0]
            raise DataError(f"data.classes names {name!r}, which {folder} does not have; nearest is {near!r}")
    return folders if chosen is None else list(chosen)


def labelled_files(folder: Path, classes: Sequence[str]) -> list[tuple[str, int]]:
    """Files and labels of class folders in torchvision's order: by class, folder and name.

    Raises:
        DataError: a class has no image, or a file is a pipe or the like; one line.
    """
    samples: list[tuple[str, int]] = []
    for label, name in enumerate(classes):
        files = files_below(folder / name, ENDINGS)
        if not files:
            raise DataError(f"{folder / name} holds no image; expected files ending in {', '.join(ENDINGS)}")
        for path in (folder / name, *files):
            check_encodable(str(path), "the name of")
        samples += [(path, label) for path in files]
    return samples


def _folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir())


def split_folder(root: Path, split: str) -> Path:
    """The folder of a split.

    Raises:
        DataError: it is missing; one line that says what was expected where.
    """
    if not root.is_dir():
        raise DataError(f"data.root {root} is not a folder; expected one that holds SPLIT/CLASS/IMAGE")
    if not (root / split).is_dir():
        folders = ", ".join(_folders(root)) or "none"
        raise DataError(
            f"data.root {root} has no split {split!r}; its folders are {folders}, and images must be at "
            f"{root}/{split}/CLASS/IMAGE; data.name=own takes ROOT/CLASS/IMAGE and holds the splits out "
            "(data.val may be null)"
        )
    return root / split


def held_or_kept(folder: Path, samples: list[tuple[str, int]], held: bool) -> list[tuple[str, int]]:
    """The images that are held out of a training folder, or the others."""
    chosen = [s for s, is_held in zip(samples, _every_tenth(samples), strict=True) if is_held is held]
    if not chosen:
        raise DataError(
            f"no class of {folder} has {HELD_OUT} images, so none is held out to validate on; name a folder as data.val"
        )
    return chosen


def _every_tenth(samples: Sequence[tuple[str, int]]) -> list[bool]:
    """Say which images are held out: the tenth, twentieth, ... of each class, in the order of their names."""
    seen: dict[int, int] = {}
    held = []
    for _, label in samples:
        seen[label] = seen.get(label, 0) + 1
        held.append(seen[label] % HELD_OUT == 0)
    return held
