"""Finds and reads boxes in JSON of COCO's form, wherever exports put the files and the images."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dcnlab.data.detection.annotations import Annotations
from dcnlab.data.detection.coco import read_json
from dcnlab.data.own.folders import IMAGE_FOLDERS, split_folders, subfolders
from dcnlab.data.own.splits import WHOLE, role_of
from dcnlab.io.files import open_regular

HEAD = 2**22
"""Bytes of a JSON file that are searched for the name of its first image."""

_OTHERS = ("captions_", "person_keypoints_", "stuff_", "panoptic_", "image_info_")
_FILE_NAME = re.compile(rb'"file_name"\s*:\s*"((?:[^"\\]|\\.){1,1024})"')
_KEYS = (b'"images"', b'"annotations"', b'"categories"')
_ROBOFLOW = "_annotations.coco.json"


@dataclass(frozen=True)
class CocoFiles:
    """JSON files by split, each with the folder of its images."""

    files: dict[str, tuple[Path, Path]]


def find_coco(root: Path) -> CocoFiles | None:
    """Find JSON of COCO's form and its images; None: there is none."""
    folders = [root, root / "annotations", root / "Annotations", *split_folders(root)]
    paths = [path for folder in folders for path in sorted(folder.glob("*.json")) if _is_coco(path)]
    plain = [path for path in paths if not path.name.startswith(_OTHERS)]
    names = {path: _split(path, root) for path in plain}
    with_role = {path: name for path, name in names.items() if role_of(name) is not None}
    chosen = with_role or (names if len(names) == 1 else {})
    files = {name: (path, _images(root, path, name)) for path, name in chosen.items()}
    return CocoFiles(files) if files else None


def _split(path: Path, root: Path) -> str:
    """The split that a file is of: the word in its name, or the name of its folder; WHOLE: neither says."""
    if role_of(path.stem) is not None:
        words = [word for word in re.split(r"[_.-]", path.stem) if role_of(word) is not None]
        return words[0] if words else path.stem
    return path.parent.name if path.parent != root and role_of(path.parent.name) is not None else WHOLE


def _head(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            return file.read(HEAD)
    except (OSError, ValueError):
        return b""


def _is_coco(path: Path) -> bool:
    head = _head(path)
    return _FILE_NAME.search(head) is not None and any(key in head for key in _KEYS)


def _images(root: Path, path: Path, split: str) -> Path:
    """The folder below which the first image of a file lies; the file's own where none has it."""
    match = _FILE_NAME.search(_head(path))
    assert match is not None
    name = match[1].decode("utf-8", "replace").replace("\\/", "/")
    parents = [root / folder for folder in ("", *IMAGE_FOLDERS, "data", "train", "val", "test")]
    folders = [path.parent, *(parent / split for parent in parents), *parents]
    folders += [inner for parent in (root, path.parent) for inner in subfolders(parent)]
    return next((folder for folder in folders if (folder / name).is_file()), path.parent)


def read_coco_files(root: Path, found: CocoFiles, classes: Sequence[str] | None) -> dict[str, Annotations]:
    """Read all boxes of a folder by split.

    Roboflow writes a category without boxes, of the lowest number, above the others: it is left out.

    Args:
        root: of the folder.
        found: by `find_coco`.
        classes: names in the order of their labels; None takes all of the files'.

    Raises:
        DataError: a file is missing or not right; one line.
    """
    parts = {split: read_json(path, root, images, classes) for split, (path, images) in found.files.items()}
    first = next(iter(parts.values()))
    of_roboflow = all(path.name == _ROBOFLOW for path, _ in found.files.values())
    if classes is not None or not of_roboflow or len(first.classes) < 2:
        return parts
    if any((part.labels == 1).any() or part.classes != first.classes for part in parts.values()):
        return parts
    return {split: read_json(path, root, images, first.classes[1:]) for split, (path, images) in found.files.items()}
