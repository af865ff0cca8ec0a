"""Annotations: the boxes of a detection data set in flat arrays, in whichever format they are stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dcnlab.io.errors import DataError
from dcnlab.io.ids import column, plain
from dcnlab.io.text import nearest_and_all, shown


@dataclass(frozen=True)
class Annotations:
    """I images with B boxes of C classes, in flat arrays, which loader processes share without copying.

    ============ ======== ======= ======================================================================
    name         shape    dtype   meaning
    ============ ======== ======= ======================================================================
    files        (I,)     string  images, relative to `root`
    image_ids    (I,)     any     the data set's own: COCO's number or text, VOC's file name without its ending
    sizes        (I, 2)   int64   height, width, pixels
    offsets      (I + 1,) int64   image i has the boxes offsets[i] to offsets[i + 1]
    boxes        (B, 4)   float64 x1, y1, x2, y2, pixels, continuous, from 0, as the files give them
    labels       (B,)     int64   1 to C
    areas        (B,)     float64 pixels; COCO's are those of the mask
    difficult    (B,)     bool    scored neither way, not trained on (VOC)
    crowd        (B,)     bool    many objects in one box, not trained on (COCO)
    category_ids (C,)     any     the data set's own number or text of each class
    ============ ======== ======= ======================================================================
    """

    root: Path
    classes: tuple[str, ...]
    files: NDArray[Any]
    image_ids: NDArray[Any]
    sizes: NDArray[np.int64]
    offsets: NDArray[np.int64]
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    areas: NDArray[np.float64]
    difficult: NDArray[np.bool_]
    crowd: NDArray[np.bool_]
    category_ids: NDArray[Any]
    by_name: bool = False
    """Whether detections call a class by its name (VOC), not by its id (COCO)."""

    def __len__(self) -> int:
        return len(self.files)

    def trainable(self) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Cut the boxes to their images and say which train a detector.

        Returns:
            Boxes (B, 4); and (B,), false for difficult ones, crowds and those with no area inside their image.
        """
        limits = np.repeat(self.sizes[:, [1, 0, 1, 0]], np.diff(self.offsets), axis=0)
        boxes = self.boxes.clip(0, limits)
        whole = (boxes[:, 2:] > boxes[:, :2]).all(1)
        return boxes, whole & ~self.difficult & ~self.crowd

    def select(self, images: Sequence[int] | NDArray[np.intp]) -> Annotations:
        """Some of the images, with their boxes."""
        chosen = np.asarray(images, np.intp)
        counts = np.diff(self.offsets)[chosen]
        first = np.repeat(self.offsets[chosen] - starts(counts)[:-1], counts)
        boxes = first + np.arange(counts.sum())
        by_image = {name: getattr(self, name)[chosen] for name in ("files", "image_ids", "sizes")}
        by_box = {name: getattr(self, name)[boxes] for name in ("boxes", "labels", "areas", "difficult", "crowd")}
        return replace(self, offsets=starts(counts), **by_image, **by_box)

    def own_names(self, detections: BoxesWithScores) -> list[dict[str, Any]]:
        """Detections as `dcnlab score` takes them: under the data set's own ids and names, see `results`."""
        if self.by_name:
            return results(detections, self.image_ids, "category", self.classes)
        return results(detections, self.image_ids, "category_id", self.category_ids)


class BoxesWithScores(Protocol):
    """Detections in flat arrays, see `dcnlab.metrics.boxes.Detections`."""

    @property
    def images(self) -> NDArray[np.int64]:
        """(D,) position of the image."""

    @property
    def classes(self) -> NDArray[np.int64]:
        """(D,) position of the class."""

    @property
    def boxes(self) -> NDArray[np.float64]:
        """(D, 4) x, y, width, height, pixels."""

    @property
    def scores(self) -> NDArray[np.float64]:
        """(D,)."""


def results(
    detections: BoxesWithScores,
    image_ids: Sequence[Any] | NDArray[Any],
    class_key: str,
    class_ids: Sequence[Any] | NDArray[Any],
) -> list[dict[str, Any]]:
    """Write detections in COCO's result form.

    Args:
        detections: of the images and classes of a data set.
        image_ids: the data set's own id of each image.
        class_key: `category_id`, or `category` if detections call a class by its name (VOC).
        class_ids: id or name of each class.

    Returns:
        A dictionary of each detection: `image_id`, the class, `bbox` and `score`.
    """
    columns = (detections.images, detections.classes, detections.boxes, detections.scores)
    return [
        {"image_id": plain(image_ids[image]), class_key: plain(class_ids[label]), "bbox": box, "score": score}
        for image, label, box, score in zip(*(column.tolist() for column in columns), strict=True)
    ]


def join(parts: Sequence[Annotations]) -> Annotations:
    """Concatenate sets of the same root and classes."""
    if len(parts) == 1:
        return parts[0]
    counts = np.concatenate([np.diff(part.offsets) for part in parts])
    rows = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("files", "sizes", "boxes", "labels", "areas", "difficult", "crowd")
    }
    first = parts[0]
    return Annotations(
        first.root,
        first.classes,
        image_ids=column([plain(number) for part in parts for number in part.image_ids]),
        offsets=starts(counts),
        category_ids=first.category_ids,
        by_name=first.by_name,
        **rows,
    )


def starts(counts: NDArray[np.integer]) -> NDArray[np.int64]:
    """Cumulate numbers of boxes for each image into offsets of the flat arrays."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])


def check_class(name: str, known: Sequence[str], source: str, whose: str, hint: str = "") -> None:
    """Refuse a class name that is not known.

    Raises:
        DataError: one line that begins with `source` and names the nearest known one.
    """
    if name not in known:
        raise DataError(
            f"{source} names the class {shown(name)}, not one of {whose}; {nearest_and_all(name[:60], known)}{hint}"
        )


def check_names(names: Sequence[str], source: str) -> None:
    """Refuse an empty list of classes and a class named twice.

    Raises:
        DataError: one line that begins with `source`.
    """
    if not names:
        raise DataError(f"{source} names no class")
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise DataError(f"{source} names the class {shown(name)} twice")
        seen.add(name)
