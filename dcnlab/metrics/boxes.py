"""Boxes to be scored, in flat arrays: ground truth and detections, both read from COCO's form."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcnlab.io.ids import alike, is_id, nearest_id
from dcnlab.io.text import shown


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
    difficult  (B,)    bool    VOC's mark of what need not be found
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
            ValueError: it is not of this form; one line that names the entry and the value.
        """
        images, categories, entries = (_entries(content, key) for key in ("images", "categories", "annotations"))
        image_of = _positions([entry.get("id") for entry in images], "image")
        class_of = _positions([entry.get("id") for entry in categories], "category")
        names = [str(entry.get("name", entry["id"])) for entry in categories]
        _positions(names, "category name")
        at, classes, boxes, areas = _columns(entries, image_of, class_of, "category_id", "annotation", "area", -1)
        return cls(
            image_ids=list(image_of),
            class_ids=list(class_of),
            names=names,
            images=at,
            classes=classes,
            boxes=boxes,
            areas=np.where(areas < 0, boxes[:, 2:].prod(1), areas),
            crowd=np.array([bool(entry.get("iscrowd")) for entry in entries], np.bool_),
            difficult=np.array([bool(entry.get("difficult")) for entry in entries], np.bool_),
        )


@dataclass(frozen=True)
class Detections:
    """D boxes of a detector; see `GroundTruth` for what their numbers mean.

    ======= ====== ======= =============================================
    name    shape  dtype   meaning
    ======= ====== ======= =============================================
    images  (D,)   int64   position among the ground truth's images
    classes (D,)   int64   position among the ground truth's classes
    boxes   (D, 4) float64 x, y, width, height, pixels, continuous, from 0
    scores  (D,)   float64 the higher, the surer
    ======= ====== ======= =============================================
    """

    images: NDArray[np.int64]
    classes: NDArray[np.int64]
    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        entries: Sequence[Mapping[str, Any]],
        image_of: Mapping[Hashable, int],
        class_of: Mapping[Hashable, int],
        class_key: str = "category_id",
    ) -> Detections:
        """Take results in COCO's form: image_id, category_id, bbox (x, y, width, height), score.

        Args:
            entries: the results.
            image_of: position of each image_id they may have.
            class_of: position of each class they may have.
            class_key: where an entry says its class.

        Raises:
            ValueError: an entry is not of this form; one line that names its index, from 0, and the value.
        """
        return cls(*_columns(entries, image_of, class_of, class_key, "entry", "score"))


def arrays(
    ground_truth: GroundTruth | Mapping[str, Any], detections: Detections | Sequence[Mapping[str, Any]]
) -> tuple[GroundTruth, Detections]:
    """Take ground truth and detections in COCO's form, or as they are.

    Raises:
        ValueError: they are not of the form; one line.
    """
    if not isinstance(ground_truth, GroundTruth):
        ground_truth = GroundTruth.of(ground_truth)
    if not isinstance(detections, Detections):
        image_of = {name: at for at, name in enumerate(ground_truth.image_ids)}
        class_of = {name: at for at, name in enumerate(ground_truth.class_ids)}
        detections = Detections.of(detections, image_of, class_of)
    return ground_truth, detections


def _entries(content: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    entries = content.get(key)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"there is no list of objects {key!r}; COCO's form has images, categories and annotations")
    return entries


def _positions(ids: Sequence[Any], kind: str) -> dict[Any, int]:
    found: dict[Any, int] = {}
    for at, name in enumerate(ids):
        if not isinstance(name, str) and not is_id(name):
            raise ValueError(f"{kind} {at}, counted from 0, has the id {shown(name)}; it must be a number or text")
        if name in found:
            raise ValueError(f"{kind} {name!r} is there twice; each must be there once")
        found[name] = at
    pair = alike(found)
    if pair is not None:
        raise ValueError(f"the {kind} ids {pair[0]!r} and {pair[1]!r} differ in type only; make them one type")
    return found


def _columns(
    entries: Sequence[Mapping[str, Any]],
    image_of: Mapping[Hashable, int],
    class_of: Mapping[Hashable, int],
    class_key: str,
    kind: str,
    number: str,
    default: float | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Images, classes, boxes and one more number of each entry; of millions in seconds."""
    try:
        images = np.fromiter((image_of[entry["image_id"]] for entry in entries), np.int64, len(entries))
        classes = np.fromiter((class_of[entry[class_key]] for entry in entries), np.int64, len(entries))
        boxes = [entry["bbox"] for entry in entries]
        corners = _numbers([value for box in boxes for value in box]).reshape(-1, 4)
        if default is None:
            values = _numbers([entry[number] for entry in entries])
        else:
            values = _numbers([entry.get(number, default) for entry in entries])
        if not set(map(len, boxes)) - {4} and (corners[:, 2:] >= 0).all():
            return images, classes, corners, values
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
        pass  # which entry it was is looked for below
    for at, entry in enumerate(entries):
        wrong = _wrong(entry, image_of, class_of, class_key, number, default)
        if wrong:
            raise ValueError(f"{kind} {at}, counted from 0, {wrong}")
    raise AssertionError(f"one {kind} was refused that nothing is wrong with")


def _numbers(values: list[Any]) -> NDArray[np.float64]:
    if not all(map(_is_numeric, set(map(type, values)))):
        raise ValueError("not all are numbers")
    column = np.array(values, np.float64)
    if not np.isfinite(column).all():
        raise ValueError("not all are finite")
    return column


def _is_numeric(kind: type) -> bool:
    return issubclass(kind, int | float | np.number) and kind is not bool


def _wrong(
    entry: Any,
    image_of: Mapping[Hashable, int],
    class_of: Mapping[Hashable, int],
    class_key: str,
    number: str,
    default: float | None,
) -> str | None:
    """Say what is wrong with an entry; None where nothing is."""
    needed = ["image_id", class_key, "bbox", *([number] if default is None else [])]
    if not isinstance(entry, Mapping):
        return f"is {shown(entry)}; it must be an object with {', '.join(needed)}"
    for key in needed:
        if key not in entry:
            return f"has no {key}; it has {', '.join(map(str, entry)) or 'nothing'}"
    for key, known in (("image_id", image_of), (class_key, class_of)):
        value = entry[key]
        if not isinstance(value, Hashable) or value not in known:
            near = nearest_id(value, known)
            hint = "" if near is None else f"; nearest: {shown(near)}"
            return f"has the {key} {shown(value)}, which the annotations do not have{hint}"
    box, value = entry["bbox"], entry.get(number, default)
    if not isinstance(box, Sequence | np.ndarray) or len(box) != 4 or not all(map(_is_number, box)):
        return f"has the bbox {shown(box)}; it must be x, y, width, height: four finite numbers"
    if box[2] < 0 or box[3] < 0:
        return f"has the bbox {shown(box)}; width and height must not be negative (are they x2, y2?)"
    return None if _is_number(value) else f"has the {number} {shown(value)}; it must be a finite number"


def _is_number(value: Any) -> bool:
    try:
        return _is_numeric(type(value)) and bool(np.isfinite(float(value)))
    except OverflowError:  # a whole number beyond all floats
        return False
