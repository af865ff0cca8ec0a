"""Reads untrusted JSON: limited in size, every key once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dcnlab.io.errors import DataError
from dcnlab.io.files import read_bytes
from dcnlab.io.text import one_line, shown

LARGEST = 4 * 2**30
"""Bytes; COCO's largest file of annotations has 450 million."""

DEEPEST = 24
"""Levels of nesting of settings and results."""


def load(path: Path, most: int = LARGEST, finish: Callable[[dict[str, Any]], dict[str, Any]] | None = None) -> Any:
    """Parse a file.

    Args:
        path: of the file.
        most: bytes it may have.
        finish: see `parse`.

    Raises:
        OSError: the file cannot be read.
        DataError: it is too large, or see `parse`; the reason, one line.
    """
    content = read_bytes(path, most)
    try:
        text = content.decode("utf-8-sig")
    except (ValueError, MemoryError) as error:
        raise DataError(one_line(error)) from error
    del content  # of gigabytes, one copy is enough
    return parse(text, finish)


def parse(text: str, finish: Callable[[dict[str, Any]], dict[str, Any]] | None = None) -> Any:
    """Parse a text; NaN and Infinity are read as such, so that a reader can say where they stand.

    Args:
        text: JSON.
        finish: takes each object as it is read and gives what stands for it.

    Raises:
        DataError: it is not JSON, or has a key twice in one object; the reason, one line.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            times = Counter(key for key, _ in pairs)  # counted once: a file may hold millions of keys
            twice = next(key for key, count in times.items() if count > 1)
            raise DataError(f"the key {shown(twice)} is there twice in one object")
        return found if finish is None else finish(found)

    try:
        return json.loads(text, object_pairs_hook=unique)
    except (ValueError, TypeError, RecursionError, MemoryError) as error:  # TypeError: what a server sent is no text
        raise DataError(one_line(error)) from error


def check_depth(tree: Any) -> None:
    """Refuse what nests so deeply that whoever walks it would fail.

    Raises:
        DataError: the reason, one line.
    """
    level = [tree]
    for _ in range(DEEPEST + 1):
        level = [
            inner
            for value in level
            if isinstance(value, dict | list)
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return
    raise DataError(f"nested more than {DEEPEST} levels deep")
