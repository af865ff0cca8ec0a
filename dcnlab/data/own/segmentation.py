"""Reads the labelled images of a user's folder, in three splits; the classes are those of its files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dcnlab.data.image_list import CLASSES_FILE, read_classes, read_pairs
from dcnlab.data.labels import (
    IGNORE,
    LabelledImages,
    check_classes,
    check_files,
    counted_lookup,
    ignored_value,
    lookup_of,
    names_of,
    read_label,
)
from dcnlab.data.own.found import Own, line_of
from dcnlab.data.own.layout import recognise
from dcnlab.data.own.masks import MaskFolders, pairs_of
from dcnlab.data.own.splits import deal
from dcnlab.data.segmentation.cityscapes import cityscapes_pairs
from dcnlab.data.segmentation.voc import CLASSES as VOC_CLASSES
from dcnlab.data.voc_lists import read_names
from dcnlab.io.named_files import NamedFiles

_WORDS = {
    "cityscapes": "Cityscapes' leftImg8bit and gtFine",
    "voc": "VOC's JPEGImages and SegmentationClass",
    "imagelist": "lists of images and labels",
    "masks": "a folder of images and one of labels",
}
_UNKNOWN = re.compile(r"\b(void|ignored?|unlabell?ed|unknown)\b")
"""In classes.txt: a class of pixels that are left out."""

Pairs = list[tuple[Path, Path]]


def own_labels(
    root: str | Path, classes: Sequence[str] | None, ignore: int | None, layout: str | None
) -> Own[LabelledImages]:
    """Recognise a folder's layout, list its images with their labels and make three splits.

    Args:
        root: of the folder.
        classes: names in the order of the label values from 0 up; None takes those of classes.txt, VOC's for a year of
            VOC, or else the values in the label files, all of which are read.
        ignore: label value of pixels to leave out; None is 255, except where labels hold 0 and 255 alone, and the
            classes that classes.txt calls void, ignore, unknown or unlabelled.
        layout: cityscapes, voc, imagelist or masks; None looks.

    Raises:
        DataError: the layout is not known, or a file is not right; one line.
    """
    folder = Path(root)
    name, found, also = recognise(folder, "segmentation", layout)
    if name == "cityscapes":
        sources = {split: cityscapes_pairs(folder, split, classes, ignore) for split in found.folders}
    else:
        pairs = {
            split: check_files(each, folder, split or "train") for split, each in _pairs(folder, name, found).items()
        }
        whole = _meaning(folder, name, found, [pair for each in pairs.values() for pair in each], classes, ignore)
        sources = {split: replace(whole, pairs=each) for split, each in pairs.items()}
    relative = {split: [_relative(image, folder) for image, _ in part.pairs] for split, part in sources.items()}
    dealt = deal(relative, folder)
    splits = {role: _part(sources[part.source], part.positions) for role, part in dealt.parts.items()}
    counts = {role: len(part.pairs) for role, part in splits.items()}
    return Own(name, line_of(folder, _WORDS[name], splits["train"].classes, counts, dealt, also), splits)


def joined(own: Own[LabelledImages], splits: str | Sequence[str]) -> LabelledImages:
    """The images of one split or of several."""
    parts = [own.split(name) for name in names_of(splits)]
    return replace(parts[0], pairs=list(dict.fromkeys(pair for part in parts for pair in part.pairs)))


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _part(images: LabelledImages, positions: Any) -> LabelledImages:
    return images if positions is None else replace(images, pairs=[images.pairs[at] for at in positions])


def _pairs(root: Path, name: str, found: MaskFolders) -> dict[str, Pairs]:
    """Images and labels by split."""
    if name == "imagelist":
        return {split: read_pairs(path, root) for split, path in found.lists.items()}
    whole = {split: pairs_of(*folders) for split, folders in found.folders.items()}
    if not found.lists:
        return whole
    images, labels = next(iter(found.folders.values()))
    files, masks = NamedFiles(images), NamedFiles(labels, (".png",))
    return {
        split: [
            (files.find(stem) or images / f"{stem}.jpg", masks.find(stem) or labels / f"{stem}.png")
            for _, stem in read_names(path, lambda stem: stem in files)
        ]
        for split, path in found.lists.items()
    }


def _values(pairs: Pairs) -> list[int]:
    """The values in all label files, ascending."""
    return sorted({int(number) for _, label in pairs for number in np.unique(read_label(label))})


def _meaning(
    root: Path, name: str, found: MaskFolders, pairs: Pairs, classes: Sequence[str] | None, ignore: int | None
) -> LabelledImages:
    """What the values in the label files mean."""
    value = ignored_value(ignore)
    bases = [root, *(images.parent for images, _ in found.folders.values())]
    path = next((base / CLASSES_FILE for base in bases if (base / CLASSES_FILE).is_file()), None)
    if classes is None and path is not None:
        names = read_classes(path, value)
        if list(names) == [0, 1] and ignore is None and _values(pairs) == [0, 255]:
            return LabelledImages([], list(names.values()), lookup_of({0: 0, 255: 1}))
        unknown = [number for number, text in names.items() if ignore is None and _UNKNOWN.search(text.lower())]
        kept = {number: text for number, text in names.items() if number not in unknown}
        labels = {number: label for label, number in enumerate(kept)} | dict.fromkeys([value, *unknown], IGNORE)
        return LabelledImages([], list(kept.values()), lookup_of(labels))
    if classes is None and name == "voc" and next(iter(found.folders.values()))[0].parent.name.startswith("VOC2"):
        classes = VOC_CLASSES
    if classes is not None:
        return LabelledImages([], check_classes(classes), counted_lookup(len(classes), value))
    values = _values(pairs)
    is_binary = ignore is None and values == [0, 255]  # a mask of black and white, not one class and unknown pixels
    known = values if is_binary else [number for number in values if number != value]
    names_of_values = ["background", "foreground"] if is_binary else [str(number) for number in known]
    labels = {number: label for label, number in enumerate(known)}
    return LabelledImages(
        [], check_classes(names_of_values), lookup_of(labels if is_binary else labels | {value: IGNORE})
    )
