"""GroundTruth and Detections: boxes to be scored, in flat arrays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dcnlab.io.box_table import BoxTable
from dcnlab.io.errors import DataError
from dcnlab.io.ids import positions
from dcnlab.io.text import shown


class AnnotatedImages(Protocol):
    """Boxes as corners, by image, see `dcnlab.data.detection.annotations.Annotations`."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of their labels, from 1."""

    @property
    def offsets(self) -> NDArray[np.int64]:
        """(I + 1,), image i has the boxes offsets[i] to offsets[i + 1]."""

    @property
    def boxes(self) -> NDArray[np.float64]:
        """(B, 4) x1, y1, x2, y2, pixels."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """(B,), from 1."""

    @property
    def areas(self) -> NDArray[np.float64]:
        """(B,) pixels."""

    @property
    def crowd(self) -> NDArray[np.bool_]:
        """(B,)."""

    @property
    def difficult(self) -> NDArray[np.bool_]:
        """(B,)."""


@dataclass(frozen=True)
class GroundTruth:
    """B boxes of C classes in I images.

    ========== ======= ======= ===========================================================
    name       shape   dtype   meaning
    ========== ======= ======= ===========================================================
    image_ids  (I,)    list    the data set's own, in its own order
    class_ids  (C,)    list    the data set's own
    names      (C,)    list    class names
    images     (B,)    int64   position in `image_ids`
    classes    (B,)    int64   position in `class_ids`
    boxes      (B, 4)  float64 x, y, width, height, pixels, continuous, from 0
    areas      (B,)    float64 pixels; COCO's are those of the mask
    crowd      (B,)    bool    many objects in one box
    difficult  (B,)    bool    VOC's mark of an object that need not be found
    ========== ======= ======= ===========================================================
    """

    image_ids: list[Any]
    class_ids: list[Any]
    names: list[str]
    images: NDArray[np.int64]
    classes: NDArray[np.int64]
    boxes: NDArray[np.float64]
    areas: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    difficult: NDArray[np.bool_]

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> GroundTruth:
        """Take images, categories and annotations in COCO's form.

        Args:
            content: `images` with id; `categories` with id and name; `annotations` with image_id, category_id, bbox
                (x, y, width, height) and, if they have them, area (else width times height), iscrowd and difficult.

        Raises:
            DataError: it is not of this form; one line that names the entry and the value.
        """
        return cls.of_table(content, filled(BoxTable(), _entries(content, "annotations")))

    @classmethod
    def of_table(cls, content: Mapping[str, Any], table: BoxTable) -> GroundTruth:
        """Take annotations from a table, and images and categories in COCO's form.

        Args:
            content: `images` with id; `categories` with id and name; `annotations`, a list, empty if already taken.
            table: the annotations.

        Raises:
            DataError: see `of`.
        """
        images, categories, _ = (_entries(content, key) for key in ("images", "categories", "annotations"))
        image_of = positions([entry.get("id") for entry in images], "image")
        class_of = positions([entry.get("id") for entry in categories], "category")
        names = [str(entry.get("name", entry["id"])) for entry in categories]
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise DataError(f"category name {shown(twice[0])} is there twice; each must be there once")
        columns = table.columns(image_of, class_of)
        return cls(
            image_ids=list(image_of),
            class_ids=list(class_of),
            names=names,
            images=columns.images,
            classes=columns.classes,
            boxes=columns.boxes,
            areas=columns.values,
            crowd=columns.crowd,
            difficult=columns.difficult,
        )

    @classmethod
    def taken(cls, content: GroundTruth | AnnotatedImages | Mapping[str, Any]) -> GroundTruth:
        """Take arrays, or COCO's form.

        Raises:
            DataError: it is not of the form; one line.
        """
        if isinstance(content, GroundTruth):
            return content
        return cls.of(content) if isinstance(content, Mapping) else cls.of_annotations(content)

    @classmethod
    def of_annotations(cls, annotations: AnnotatedImages) -> GroundTruth:
        """Take the boxes of a data set, under positions of its images and classes as their ids."""
        counts = np.diff(annotations.offsets)
        corners = annotations.boxes
        return cls(
            image_ids=list(range(len(counts))),
            class_ids=list(range(len(annotations.classes))),
            names=list(annotations.classes),
            images=np.repeat(np.arange(len(counts)), counts),
            classes=annotations.labels - 1,
            boxes=np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1),
            areas=annotations.areas,
            crowd=annotations.crowd,
            difficult=annotations.difficult,
        )


@dataclass(frozen=True)
class Detections:
    """D boxes of a detector; positions are those of `GroundTruth`.

    ======= ====== ======= ==================================================
    name    shape  dtype   meaning
    ======= ====== ======= ==================================================
    images  (D,)   int64   position among the ground truth's images
    classes (D,)   int64   position among the ground truth's classes
    boxes   (D, 4) float64 x, y, width, height, pixels, continuous, from 0
    scores  (D,)   float64 the higher, the surer
    ======= ====== ======= ==================================================
    """

    images: NDArray[np.int64]
    classes: NDArray[np.int64]
    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]

    @classmethod
    def of_table(
        cls, table: BoxTable, image_of: Mapping[Hashable, int], class_of: Mapping[Hashable, int]
    ) -> Detections:
        """Take results in COCO's form: image_id, a class, bbox (x, y, width, height), score.

        Args:
            table: the results.
            image_of: position of each image_id they may have.
            class_of: position of each class they may have.

        Raises:
            DataError: an entry is not of this form; one line that names its position, from 0, and the value.
        """
        columns = table.columns(image_of, class_of, "entry")
        return cls(columns.images, columns.classes, columns.boxes, columns.values)


def arrays(
    ground_truth: GroundTruth | AnnotatedImages | Mapping[str, Any],
    detections: Detections | Sequence[Mapping[str, Any]],
) -> tuple[GroundTruth, Detections]:
    """Take ground truth and detections as arrays, or in COCO's form.

    Raises:
        DataError: they are not of the form; one line.
    """
    ground_truth = GroundTruth.taken(ground_truth)
    if not isinstance(detections, Detections):
        image_of = {name: position for position, name in enumerate(ground_truth.image_ids)}
        class_of = {name: position for position, name in enumerate(ground_truth.class_ids)}
        detections = Detections.of_table(filled(BoxTable(scored=True), detections), image_of, class_of)
    return ground_truth, detections


def filled(table: BoxTable, entries: Iterable[Any]) -> BoxTable:
    """Add entries to a table, and give it back."""
    for entry in entries:
        table.add(entry)
    return table


def _entries(content: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    entries = content.get(key)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DataError(f"there is no list of objects {key!r}; COCO's form has images, categories and annotations")
    return entries
