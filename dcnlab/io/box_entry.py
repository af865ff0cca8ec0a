"""Rules for one entry of COCO's form, and the words in which a broken rule is reported."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np

from dcnlab.io.ids import nearest_id
from dcnlab.io.text import shown

MARKS = (0, 1, None)
"""Values of `iscrowd` and `difficult`; None is 0."""


@dataclass(frozen=True)
class Form:
    """Keys of an entry.

    Args:
        scored: whether entries are detections, which need a `score`; else they are ground truth, which may have `area`,
            `iscrowd` and `difficult`.
        class_key: key of the class.
    """

    scored: bool = False
    class_key: str = "category_id"

    @property
    def needed(self) -> list[str]:
        """Keys that each entry must have."""
        return ["image_id", self.class_key, "bbox", *(["score"] if self.scored else [])]

    def fault(self, entry: Any) -> str | None:
        """Say which rule an entry breaks, of those that do not depend on known images and classes; None: no rule."""
        if not isinstance(entry, Mapping):
            return f"is {shown(entry)}; it must be an object with {', '.join(self.needed)}"
        for key in self.needed:
            if key not in entry:
                return f"has no {key}; it has {', '.join(map(str, entry)) or 'nothing'}"
        for key in ("image_id", self.class_key):
            if not isinstance(entry[key], Hashable):
                return f"has the {key} {shown(entry[key])}; it must be a number or text"
        return _fault_of_box(entry["bbox"]) or (_fault_of_score if self.scored else _fault_of_object)(entry)


def fault_of_id(key: str, value: object, known: Mapping[Hashable, int], owner: str) -> str:
    """Say that no image or category has an id, and which one is nearest.

    Args:
        key: of the id in the entry.
        value: the unknown id.
        known: ids that there are.
        owner: image or category.
    """
    near = nearest_id(value, known)
    hint = "" if near is None else f"; nearest: {shown(near)}"
    return f"has the {key} {shown(value)}, which no {owner} has{hint}"


def _fault_of_box(box: Any) -> str | None:
    if not isinstance(box, Sequence | np.ndarray) or len(box) != 4 or not all(map(_is_number, box)):
        return f"has the bbox {shown(box)}; it must be x, y, width, height: four finite numbers"
    if box[2] < 0 or box[3] < 0:
        return f"has the bbox {shown(box)}; width and height must not be negative (are they x2, y2?)"
    return None


def _fault_of_score(entry: Mapping[str, Any]) -> str | None:
    score = entry["score"]
    return None if _is_number(score) else f"has the score {shown(score)}; it must be a finite number"


def _fault_of_object(entry: Mapping[str, Any]) -> str | None:
    if "area" in entry and not _is_number(entry["area"]):
        return f"has the area {shown(entry['area'])}; it must be a finite number"
    for key in ("iscrowd", "difficult"):
        if entry.get(key) not in MARKS:
            return f"has the {key} {shown(entry[key])}; it must be 0 or 1"
    return None


def _is_number(value: Any) -> bool:
    try:
        kind = type(value)
        return issubclass(kind, int | float | np.number) and kind is not bool and isfinite(float(value))
    except OverflowError:  # a whole number beyond all floats
        return False
