"""Boxes in COCO's form, read entry by entry into flat arrays: ground truth with areas, or detections with scores."""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcnlab.io.box_entry import MARKS, Form, fault_of_id
from dcnlab.io.errors import DataError
from dcnlab.io.text import shown

_PLAIN_NUMBERS = frozenset((int, float))


@dataclass(frozen=True)
class Columns:
    """B boxes, as a `BoxTable` has read them.

    ========= ======= ======= ============================================================
    name      shape   dtype   meaning
    ========= ======= ======= ============================================================
    images    (B,)    int64   position of the box's image
    classes   (B,)    int64   position of the box's class
    boxes     (B, 4)  float64 x, y, width, height, pixels, continuous, from 0
    values    (B,)    float64 area in pixels (width times height if not stated), or score
    crowd     (B,)    bool    many objects in one box (`iscrowd`)
    difficult (B,)    bool    VOC's mark of an object that need not be found
    ========= ======= ======= ============================================================
    """

    images: NDArray[np.int64]
    classes: NDArray[np.int64]
    boxes: NDArray[np.float64]
    values: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    difficult: NDArray[np.bool_]


class BoxTable:
    """Collects entries that hold image_id, a class, bbox (x, y, width, height), and area or score.

    An entry takes 57 bytes here and is not kept. A file may list its images and classes after the entries: ids are
    looked up at the end, by `columns`.

    Args:
        scored: whether the entries are detections, see `Form`.
        class_key: key of the class in an entry.
    """

    def __init__(self, scored: bool = False, class_key: str = "category_id") -> None:
        self.form = Form(scored, class_key)
        self._images, self._classes = _Codes("image_id", "image"), _Codes(class_key, "category")
        self._numbers, self._marks = array("d"), bytearray()
        self._fault: tuple[int, object, str] | None = None

    def __len__(self) -> int:
        return len(self._marks)

    def add(self, entry: Any) -> None:
        """Add an entry. After the first malformed one, which `columns` reports, entries are ignored."""
        if self._fault is not None:
            return
        scored, position = self.form.scored, len(self)
        try:
            image, label, number = entry["image_id"], entry[self.form.class_key], None if scored else entry.get("id")
            x, y, width, height = entry["bbox"]
            row = (x, y, width, height, entry["score"] if scored else entry.get("area", -1.0))
            crowd, difficult = (0, 0) if scored else (entry.get("iscrowd"), entry.get("difficult"))
            plain = _PLAIN_NUMBERS.issuperset(map(type, row)) and isfinite(sum(row)) and width >= 0 and height >= 0
            if not (plain and crowd in MARKS and difficult in MARKS) and self.form.fault(entry):
                raise ValueError
            numbers = array("d", row)
            codes = self._images.code(image, position, number), self._classes.code(label, position, number)
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError, IndexError):
            number = entry.get("id") if isinstance(entry, Mapping) and not scored else None
            fault = self.form.fault(entry)
            assert fault is not None, "an entry was refused that breaks no rule"
            self._fault = position, number, fault
            return
        self._images.column.append(codes[0])
        self._classes.column.append(codes[1])
        self._numbers.extend(numbers)
        self._marks.append(bool(crowd) + 2 * bool(difficult))

    def columns(
        self,
        image_of: Mapping[Hashable, int],
        class_of: Mapping[Hashable, int],
        kind: str = "annotation",
        prefix: str = "",
    ) -> Columns:
        """Look up images and classes, and give all columns.

        Args:
            image_of: position of each image_id.
            class_of: position of each class.
            kind: what an entry is called in an error.
            prefix: begins the error's line.

        Raises:
            DataError: an entry is malformed, or its image or class is unknown; one line with the first such entry's id
                or position, the value and the rule.
        """
        faults = [self._images.first_fault(image_of), self._classes.first_fault(class_of), self._fault]
        first = min((fault for fault in faults if fault is not None), key=lambda fault: fault[0], default=None)
        if first is not None:
            position, number, fault = first
            name = f"{position}, counted from 0," if number is None else shown(number)
            raise DataError(f"{prefix}{kind} {name} {fault}")
        numbers, marks = np.array(self._numbers, np.float64).reshape(-1, 5), np.array(self._marks, np.uint8)
        boxes, values = np.ascontiguousarray(numbers[:, :4]), numbers[:, 4].copy()
        if not self.form.scored:
            values = np.where(values < 0, boxes[:, 2:].prod(1), values)
        images, classes = self._images.positions(image_of), self._classes.positions(class_of)
        return Columns(images, classes, boxes, values, marks & 1 != 0, marks & 2 != 0)


class _Codes:
    """The ids under one key of all entries: each distinct id once, and a number that stands for it in an array."""

    def __init__(self, key: str, owner: str) -> None:
        self.key, self.owner = key, owner
        self.column = array("q")
        self._code_of: dict[Hashable, int] = {}
        self._first_position, self._first_number = array("q"), list[object]()

    def code(self, value: Hashable, position: int, number: object) -> int:
        """The number that stands for an id; of its first entry, position and annotation id are noted."""
        code = self._code_of.get(value)
        if code is None:
            code = self._code_of[value] = len(self._code_of)
            self._first_position.append(position)
            self._first_number.append(number)
        return code

    def positions(self, known: Mapping[Hashable, int]) -> NDArray[np.int64]:
        """Position of each entry's image or class."""
        lookup = np.fromiter((known[value] for value in self._code_of), np.int64, len(self._code_of))
        return lookup[np.array(self.column, np.int64)]

    def first_fault(self, known: Mapping[Hashable, int]) -> tuple[int, object, str] | None:
        """Position, annotation id and fault of the first entry whose id is not known; None: all are known."""
        for value, code in self._code_of.items():
            if value not in known:
                fault = fault_of_id(self.key, value, known, self.owner)
                return self._first_position[code], self._first_number[code], fault
        return None
