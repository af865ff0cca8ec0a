"""Reads untrusted JSON whose lists are long: their entries are handed over one at a time, and none is kept."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dcnlab.io.errors import DataError
from dcnlab.io.json_file import LARGEST, text_of, unique_keys
from dcnlab.io.text import one_line, shown

Take = Callable[[Any], None]
"""Takes an entry of a list, as soon as it is parsed."""

_SPACE = re.compile(r"[ \t\n\r]*")


def load_object(path: Path, take: Mapping[str, Take], most: int = LARGEST) -> Any:
    """Parse a file that holds an object with long lists.

    Args:
        path: of the file.
        take: by key of the object, takes the entries of the list that stands there.
        most: bytes the file may have.

    Returns:
        The object with an empty list in place of each list that was taken. A value that is not an object is returned
        whole, and so is a value under a key of `take` that is not a list.

    Raises:
        OSError: the file cannot be read.
        DataError: it is too large, not JSON, or has a key twice in one object; the reason, one line.
    """
    return _Parser(text_of(path, most)).whole(lambda parser: parser.members(take), "{")


def load_list(path: Path, take: Take, most: int = LARGEST) -> bool:
    """Parse a file that holds a long list.

    Args:
        path: of the file.
        take: takes the list's entries.
        most: bytes the file may have.

    Returns:
        Whether the file holds a list.

    Raises:
        OSError: the file cannot be read.
        DataError: see `load_object`.
    """
    return _Parser(text_of(path, most)).whole(lambda parser: parser.entries(take), "[") == []


class _Parser:
    """Parses the outermost level of a text itself, and leaves the values below it to Python's decoder."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self.decoder = json.JSONDecoder(object_pairs_hook=unique_keys)

    def whole(self, parse: Callable[[_Parser], Any], start: str) -> Any:
        """Parse the whole text: by `parse` if it begins with `start`, else by Python's decoder."""
        try:
            value = parse(self) if self.next() == start else self.value()
            if self.next():
                raise self.error("Extra data")
        except (ValueError, RecursionError, MemoryError) as error:
            raise DataError(one_line(error)) from error
        return value

    def members(self, take: Mapping[str, Take]) -> dict[str, Any]:
        """Parse an object; the lists under the keys of `take` are taken and left empty."""
        content: dict[str, Any] = {}
        self.at += 1
        if self.next() == "}":
            self.at += 1
            return content
        while True:
            if self.next() != '"':
                raise self.error("Expecting property name enclosed in double quotes")
            key = self.value()
            if key in content:
                raise DataError(f"the key {shown(key)} is there twice in one object")
            if self.next() != ":":
                raise self.error("Expecting ':' delimiter")
            self.at += 1
            content[key] = self.entries(take[key]) if self.next() == "[" and key in take else self.value()
            if self.more("}"):
                return content

    def entries(self, take: Take) -> list[Any]:
        """Parse a list, hand over its entries, and return an empty one."""
        self.at += 1
        if self.next() == "]":
            self.at += 1
            return []
        while True:
            self.next()
            take(self.value())
            if self.more("]"):
                return []

    def value(self) -> Any:
        """Parse the value that begins here."""
        value, self.at = self.decoder.raw_decode(self.text, self.at)
        return value

    def more(self, end: str) -> bool:
        """Step over a comma, or over the end of an object or list; return whether it is the end."""
        mark = self.next()
        if mark not in (",", end) or not mark:
            raise self.error("Expecting ',' delimiter")
        self.at += 1
        return mark == end

    def next(self) -> str:
        """Skip spaces; return the character there, "" at the end of the text."""
        self.at = _SPACE.match(self.text, self.at).end()  # type: ignore[union-attr]  # it matches everywhere
        return self.text[self.at : self.at + 1]

    def error(self, reason: str) -> json.JSONDecodeError:
        """An error that states line and column, as Python's decoder does."""
        return json.JSONDecodeError(reason, self.text, self.at)
