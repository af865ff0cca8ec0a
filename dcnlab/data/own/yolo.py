"""Reads boxes in YOLO's form: a .txt for each image, in labels/ next to images/."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dcnlab.data.detection.annotations import Annotations, check_names
from dcnlab.data.image_list import read_lines
from dcnlab.data.own.boxes import BoxedImage, annotations_of
from dcnlab.data.own.yolo_folders import YoloFolders, first_yaml, images_of, label_of, within
from dcnlab.io.errors import DataError
from dcnlab.io.image_file import image_size
from dcnlab.io.orientation import Orientation
from dcnlab.io.text import shown

_NAMES = ("classes.txt", "obj.names", "labels/classes.txt")
_CORNERS_MOST = 10_000
_CLASSES_MOST = 100_000


def read_yolo(
    root: Path, found: YoloFolders, classes: Sequence[str] | None, orientation: Orientation
) -> dict[str, Annotations]:
    """Read all boxes of a folder by split; an image without a .txt, or with an empty one, has none.

    A line is a class number, and a box or the corners of a polygon; where data.yaml states `kpt_shape`, keypoints
    follow the box.

    Args:
        root: of the folder.
        found: by `find_yolo`.
        classes: names to use, in the order of their labels; None takes all of the folder's.
        orientation: says which images are turned.

    Raises:
        DataError: a file is missing or not right; one line.
    """
    content = _yaml(root)
    names = _names(root, content) or (None if classes is None else list(classes))
    has_keypoints = "kpt_shape" in content
    images: dict[str, list[BoxedImage]] = {}
    for split, sources in found.sources.items():
        paths = dict.fromkeys(path for source in sources for path in images_of(root, source))
        images[split] = [_image(root, path, names, has_keypoints, orientation) for path in paths]
    chosen = list(classes) if classes is not None else names
    if chosen is None:
        count = 1 + max(
            (int(name) for group in images.values() for image in group for name, _, _ in image.objects), default=-1
        )
        chosen = [str(number) for number in range(count)]
    check_names(chosen, f"the labels of {root}")
    return {split: annotations_of(root, group, chosen) for split, group in images.items()}


def _yaml(root: Path) -> dict[str, Any]:
    """The content of the folder's .yaml, its names as a list; empty where there is none."""
    path, content = first_yaml(root)
    names = content.get("names", [])
    return content and content | {"names": _numbered(names, path) if isinstance(names, dict) else list(map(str, names))}


def _numbered(names: dict[Any, Any], path: Path) -> list[str]:
    """The names of a dict by number; a number without a name is named by itself."""
    by_number = {int(number): str(name) for number, name in names.items() if str(number).isdecimal()}
    if len(by_number) < len(names) or max(by_number) >= _CLASSES_MOST:
        wrong = next((number for number in names if not str(number).isdecimal()), max(by_number, default=0))
        raise DataError(f"{path} names has the key {shown(wrong)}; a class number is 0 to {_CLASSES_MOST - 1}")
    return [by_number.get(number, str(number)) for number in range(max(by_number) + 1)]


def _names(root: Path, content: dict[str, Any]) -> list[str] | None:
    """The classes' names by number: of the .yaml, or of a list; None: the folder does not tell."""
    if "names" in content:
        check_names(content["names"], f"the .yaml of {root}")
        return content["names"]
    for name in _NAMES:
        if (root / name).is_file():
            return [line for _, line in read_lines(root / name)]
    return None


def _image(
    root: Path, path: Path, names: list[str] | None, has_keypoints: bool, orientation: Orientation
) -> BoxedImage:
    height, width = image_size(path, orientation)
    label = label_of(root, path)
    lines = read_lines(label) if label.is_file() else []
    objects = [_object(line, f"{label} line {number}", names, has_keypoints, height, width) for number, line in lines]
    return BoxedImage(within(root, path).as_posix(), (height, width), objects)


def _object(
    line: str, source: str, names: list[str] | None, has_keypoints: bool, height: int, width: int
) -> tuple[str, list[float], bool]:
    """An object's class, box in pixels, and that it is not difficult; a polygon becomes the box around it."""
    fields = line.split()
    try:
        label, values = float(fields[0]), [float(field) for field in fields[1:_CORNERS_MOST]]
        number = int(label) if label.is_integer() else -1  # some tools write 0.0
    except ValueError:
        number, values = -1, []
    values = values[:4] if has_keypoints else values
    is_polygon = len(values) >= 6 and len(values) % 2 == 0
    if number < 0 or not (len(values) == 4 or is_polygon) or not all(map(math.isfinite, values)):
        raise DataError(f"{source} is {shown(line)}; it must be a class number, and x, y, width, height as fractions")
    if not all(-0.01 <= value <= 1.01 for value in values):
        raise DataError(f"{source} is {shown(line)}, whose numbers are not fractions of the image, 0 to 1")
    if names is not None and number >= len(names):
        raise DataError(f"{source} has the class {number}; there are {len(names)} names, from 0")
    if is_polygon:
        left, right, top, bottom = min(values[::2]), max(values[::2]), min(values[1::2]), max(values[1::2])
    else:
        x, y, w, h = values
        left, right, top, bottom = x - w / 2, x + w / 2, y - h / 2, y + h / 2
    box = [max(0.0, left) * width, max(0.0, top) * height, min(1.0, right) * width, min(1.0, bottom) * height]
    return str(number) if names is None else names[number], box, False
