"""Reads untrusted JSON: limited in size, every key once."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from dcnlab.io.errors import DataError
from dcnlab.io.files import read_bytes
from dcnlab.io.text import one_line, shown

LARGEST = 4 * 2**30
"""Bytes; COCO's largest file of annotations has 450 million."""

DEEPEST = 24
"""Levels of nesting of settings and results."""


def load(path: Path, most: int = LARGEST) -> Any:
    """Parse a file.

    Args:
        path: of the file.
        most: bytes it may have.

    Raises:
        OSError: the file cannot be read.
        DataError: it is too large, or see `parse`; the reason, one line.
    """
    return parse(text_of(path, most))


def text_of(path: Path, most: int = LARGEST) -> str:
    """Read a file as UTF-8.

    Args:
        path: of the file.
        most: bytes it may have.

    Raises:
        OSError: the file cannot be read.
        DataError: it is too large or no text; the reason, one line.
    """
    content = read_bytes(path, most)
    try:
        return content.decode("utf-8-sig")
    except (ValueError, MemoryError) as error:
        raise DataError(one_line(error)) from error


def parse(text: str) -> Any:
    """Parse a text; NaN and Infinity are read as such, so that a reader can name the entry that holds them.

    Raises:
        DataError: it is not JSON, or has a key twice in one object; the reason, one line.
    """
    try:
        return json.loads(text, object_pairs_hook=unique_keys)
    except (
        ValueError,
        TypeError,
        RecursionError,
        MemoryError,
    ) as error:  # TypeError: a server sent no text
        raise DataError(one_line(error)) from error


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its pairs of key and value.

    Raises:
        DataError: a key is there twice; one line.
    """
    content = dict(pairs)
    if len(content) < len(pairs):
        times = Counter(key for key, _ in pairs)  # counted once: a file may hold millions of keys
        twice = next(key for key, count in times.items() if count > 1)
        raise DataError(f"the key {shown(twice)} is there twice in one object")
    return content


def check_depth(tree: Any) -> None:
    """Refuse a tree of more than `DEEPEST` levels, which a recursive function could not walk.

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
