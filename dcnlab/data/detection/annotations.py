"""Annotations: the boxes of a detection data set in flat arrays, whatever format they were read from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcnlab.io.errors import DataError
from dcnlab.io.ids import column, plain
from dcnlab.io.text import nearest_and_all, shown


@dataclass(frozen=True)
class Annotations:
    """I images with B boxes of C classes, in flat arrays, which loader processes share and Python does not count.

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

    def own_names(self, detections: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Detections by position and label as `dcnlab score` takes them: under the data set's own ids and names.

        Args:
            detections: with `image_id`, the image's position, and `category_id`, the label; `bbox` and `score`.

        Returns:
            COCO's result form; of a VOC data set `image_id` is the file's name without its ending and `category`, the
            class's name, stands for `category_id`.
        """
        renamed = []
        for found in detections:
            label = found["category_id"] - 1
            owner = {"image_id": plain(self.image_ids[found["image_id"]])}
            if self.by_name:
                owner["category"] = self.classes[label]
            else:
                owner["category_id"] = plain(self.category_ids[label])
            renamed.append({**owner, "bbox": found["bbox"], "score": found["score"]})
        return renamed

    def ground_truth(self) -> dict[str, list[dict[str, Any]]]:
        """Build a dictionary in COCO's form; image ids are positions from 0, category ids are labels."""
        images = [
            {"id": i, "file_name": str(name), "height": height, "width": width}
            for i, (name, (height, width)) in enumerate(zip(self.files, self.sizes.tolist(), strict=True))
        ]
        owners = np.repeat(np.arange(len(self)), np.diff(self.offsets)).tolist()
        corners = np.concatenate([self.boxes[:, :2], self.boxes[:, 2:] - self.boxes[:, :2]], 1).tolist()
        annotations = [
            {
                "id": number,
                "image_id": image,
                "category_id": label,
                "bbox": bbox,
                "area": area,
                "iscrowd": crowd,
                "difficult": difficult,
            }
            for number, (image, label, bbox, area, crowd, difficult) in enumerate(
                zip(
                    owners,
                    self.labels.tolist(),
                    corners,
                    self.areas.tolist(),
                    self.crowd.astype(int).tolist(),
                    self.difficult.astype(int).tolist(),
                    strict=True,
                ),
                1,
            )
        ]
        categories = [{"id": label, "name": name} for label, name in enumerate(self.classes, 1)]
        return {"images": images, "categories": categories, "annotations": annotations}


def strings(values: Sequence[str]) -> NDArray[Any]:
    """Store text in one block of memory, each at its own length."""
    return np.array(values, dtype=np.dtypes.StringDType())


def join(parts: Sequence[Annotations]) -> Annotations:
    """Put several sets of the same root and classes one behind the other."""
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
    """Turn boxes an image into offsets."""
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
