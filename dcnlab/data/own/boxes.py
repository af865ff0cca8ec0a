"""Boxes of a user's folder: annotations from images with objects, from XML, JSON or text files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dcnlab.data.detection.annotations import Annotations, starts
from dcnlab.data.photographs import strings


@dataclass(frozen=True)
class BoxedImage:
    """An image with its objects."""

    file: str
    """Path of the image, relative to the root."""
    size: tuple[int, int]
    """Height and width, pixels."""
    objects: Sequence[tuple[str, Sequence[float], bool]]
    """Of each object the class, the box (x1, y1, x2, y2), pixels from 0, and whether it is difficult."""


def annotations_of(root: Path, images: Sequence[BoxedImage], classes: Sequence[str]) -> Annotations:
    """The annotations of some images; objects of other classes are left out.

    Args:
        root: folder that the files are relative to.
        images: with their objects.
        classes: names in the order of their labels, from 1.
    """
    label_of = {name: label for label, name in enumerate(classes, 1)}
    objects = [[item for item in image.objects if item[0] in label_of] for image in images]
    flat = [item for items in objects for item in items]
    corners = np.array([box for _, box, _ in flat], np.float64).reshape(-1, 4)
    return Annotations(
        root=root,
        classes=tuple(classes),
        files=strings([image.file for image in images]),
        image_ids=strings([Path(image.file).with_suffix("").as_posix() for image in images]),
        sizes=np.array([image.size for image in images], np.int64).reshape(-1, 2),
        offsets=starts(np.array([len(items) for items in objects], np.int64)),
        boxes=corners,
        labels=np.array([label_of[name] for name, _, _ in flat], np.int64),
        areas=(corners[:, 2:] - corners[:, :2]).prod(1),
        difficult=np.array([is_difficult for _, _, is_difficult in flat], np.bool_),
        crowd=np.zeros(len(corners), np.bool_),
        category_ids=np.arange(1, len(classes) + 1),
        by_name=True,
    )


def class_names(images: Sequence[BoxedImage]) -> list[str]:
    """The classes of all objects, by name."""
    return sorted({name for image in images for name, _, _ in image.objects})
