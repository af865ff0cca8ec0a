"""Checks of an ImageRecord that was read from a file: types, shapes and ranges."""

from __future__ import annotations

from typing import Any

import numpy as np

from dcnlab.io.errors import DataError
from dcnlab.metrics.detection_record import SIZES, DetectionRecord
from dcnlab.metrics.voc_ap import METRICS, PASSED

_KINDS = {"correct": "b", "object_counts": "b", "score": "f"}


def check_columns(record: Any) -> None:
    """Check that a record can be scored.

    Raises:
        DataError: a name is not a text, or an array is of another type, shape or range; says which.
    """
    names = {"images": record.images, **{key: value for key, value in record.header().items() if key != "ious"}}
    for key, values in names.items():
        texts = values if isinstance(values, tuple | list) else [values]
        if set(map(type, texts)) - {str}:
            raise DataError(f"{key} are not all names")
        if len(set(texts)) < len(texts):
            raise DataError(f"{key} has a name twice")
    for name, values in record.columns().items():
        if values.dtype.kind not in _KINDS.get(name, "iu"):
            raise DataError(f"{name} has the type {values.dtype}")
    for name, shape in _shapes(record).items():
        if record.columns()[name].shape != shape:
            raise DataError(f"{name} has the shape {record.columns()[name].shape}; it must be {shape}")
    for name, end in _ends(record).items():
        values = record.columns()[name]
        if values.size and not 0 <= values.min() <= values.max() < end:
            raise DataError(f"{name} must lie in 0 to {end - 1}")


def _shapes(record: Any) -> dict[str, tuple[int, ...]]:
    images, columns = len(record.images), record.columns()
    if "correct" in columns:
        return {"correct": (len(record.metrics), images)}
    if not isinstance(record, DetectionRecord):
        return dict.fromkeys(columns, (images, len(record.classes)))
    if record.protocol not in ("coco", *METRICS):
        raise DataError(f"protocol is {record.protocol!r}")
    if not all(type(iou) is float for iou in record.ious):
        raise DataError("ious are not all numbers")
    areas = 1 + len(SIZES) if record.protocol == "coco" else 1
    detections, objects = record.score.shape[:1], record.object_image.shape[:1]
    shapes = dict.fromkeys(("image", "label", "number", "score"), detections)
    shapes |= dict.fromkeys(("object_image", "object_label"), objects)
    return {**shapes, "state": (*detections, areas, len(record.ious)), "object_counts": (*objects, areas)}


def _ends(record: Any) -> dict[str, int]:
    """The end of each array's range, exclusive."""
    if not isinstance(record, DetectionRecord):
        return {} if "correct" in record.columns() else dict.fromkeys(record.columns(), 2**53)
    images, classes = len(record.images), len(record.classes)
    ends = {"image": images, "object_image": images, "label": classes, "object_label": classes}
    return ends | {"state": PASSED + 1, "number": np.iinfo(np.int32).max}
