"""Reads the boxes of a user's folder: VOC's XML, COCO's JSON or YOLO's text, in three splits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dcnlab.data.detection.annotations import Annotations, join
from dcnlab.data.labels import check_same_classes, names_of
from dcnlab.data.own.coco import read_coco_files
from dcnlab.data.own.found import Own, line_of
from dcnlab.data.own.layout import recognise
from dcnlab.data.own.splits import deal
from dcnlab.data.own.voc import read_voc_folders
from dcnlab.data.own.yolo import read_yolo
from dcnlab.io.orientation import Orientation

_WORDS = {"voc": "boxes in VOC's XML", "coco": "boxes in COCO's JSON", "yolo": "boxes in YOLO's text files"}


def own_boxes(
    root: str | Path, classes: Sequence[str] | None, layout: str | None, exif: str, data: str = "own"
) -> Own[Annotations]:
    """Recognise a folder's layout, read its boxes and make three splits.

    Args:
        root: of the folder.
        classes: names in the order of their labels; None takes the folder's.
        layout: voc, coco or yolo; None looks.
        exif: see `Orientation`.
        data: `data.name`, for messages.

    Raises:
        DataError: the layout is not known, or a file is not right; one line.
    """
    folder = Path(root)
    name, found, also = recognise(folder, "detection", layout, data)
    sources = _read(name, folder, found, classes, Orientation(exif))
    dealt = deal({split: part.files.tolist() for split, part in sources.items()}, folder)
    splits = {
        role: sources[part.source] if part.positions is None else sources[part.source].select(part.positions)
        for role, part in dealt.parts.items()
    }
    first = splits["train"]
    check_same_classes(folder, ("train", first.classes), *((role, part.classes) for role, part in splits.items()))
    counts = {role: len(part) for role, part in splits.items()}
    also = also if data == "own" else []
    return Own(name, line_of(folder, _WORDS[name], first.classes, counts, dealt, also), splits)


def _read(
    name: str, root: Path, found: Any, classes: Sequence[str] | None, orientation: Orientation
) -> dict[str, Annotations]:
    if name == "coco":
        return read_coco_files(root, found, classes)
    if name == "yolo":
        return read_yolo(root, found, classes, orientation)
    return read_voc_folders(root, found, classes, orientation)


def joined(own: Own[Annotations], splits: str | Sequence[str]) -> Annotations:
    """The annotations of one split or of several."""
    return join([own.split(name) for name in names_of(splits)])
