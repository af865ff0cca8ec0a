"""Ids of images and categories as COCO's tools take them: whole numbers, other numbers and text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcnlab.io.errors import DataError
from dcnlab.io.text import nearest, shown

LONGEST = 1024
"""Characters of an id that is text."""


def is_id(value: object) -> bool:
    """Whether a value is a whole number of 64 bits, another finite number, or text that UTF-8 can hold."""
    if isinstance(value, str):
        return len(value) <= LONGEST and not any("\ud800" <= letter <= "\udfff" for letter in value)
    if type(value) is int:
        return -(2**63) <= value < 2**63
    return type(value) is float and math.isfinite(value)


def positions(ids: Iterable[Any], kind: str, prefix: str = "") -> dict[Any, int]:
    """Number ids from 0 in their order, and refuse ids that several entries share.

    Args:
        ids: of all entries.
        kind: what an entry is, such as image.
        prefix: begins the error's line.

    Raises:
        DataError: one is not an id, is there twice, or differs from another in type only; one line.
    """
    position_of: dict[Any, int] = {}
    for position, value in enumerate(ids):
        if not is_id(value):
            raise DataError(
                f"{prefix}{kind} {position}, counted from 0, has the id {shown(value)}; it must be a number or text"
            )
        if value in position_of:
            raise DataError(f"{prefix}{kind} {shown(value)} is there twice; each must be there once")
        position_of[value] = position
    pair = alike(position_of)
    if pair is not None:
        first, second = map(shown, pair)
        raise DataError(f"{prefix}the {kind} ids {first} and {second} differ in type only; make them one type")
    return position_of


def alike(ids: Iterable[Any]) -> tuple[Any, Any] | None:
    """Find two ids that differ in type only, such as 1 and "1", which COCO's own tools take for one; None: all differ.

    Args:
        ids: distinct.
    """
    ids = list(ids)
    if len(set(map(type, ids))) < 2:
        return None
    seen: dict[str, Any] = {}
    for value in ids:
        text = str(int(value)) if isinstance(value, float) and value == int(value) else str(value)
        if text in seen:
            return seen[text], value
        seen[text] = value
    return None


def nearest_id(value: object, known: Iterable[Any]) -> Any:
    """The known id that a wrong one may stand for; None where none is similar.

    It is the same id of another type, else the nearest number of a number, or the most similar text of a text.
    """
    if not isinstance(value, str | int | float):
        return None
    known = list(known)
    same = [other for other in known if str(other) == str(value)]
    if same:
        return same[0]
    if isinstance(value, str):
        return nearest(value, [other for other in known if isinstance(other, str)])
    if type(value) is int:
        return min((other for other in known if not isinstance(other, str)), key=lambda n: abs(n - value), default=None)
    return None


def in_order(value: Any) -> tuple[bool, Any]:
    """Key that sorts ids: numbers first, then text."""
    return (True, value) if isinstance(value, str) else (False, value)


def column(ids: Sequence[Any]) -> NDArray[Any]:
    """Store ids in one block of memory; ids of several types are stored as objects."""
    kinds = set(map(type, ids)) or {int}
    if kinds == {str}:
        return np.array(ids, np.dtypes.StringDType())
    if len(kinds) == 1:
        return np.array(ids, np.int64 if kinds == {int} else np.float64)
    return np.array(ids, object)


def plain(value: Any) -> Any:
    """Take an id out of a column as the file has it."""
    return value.item() if isinstance(value, np.generic) else value
