"""Tables of the report: numeric columns, and the value that a cell sorts by."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_NUMBER = re.compile(
    r"([+-]?\d[\d,]*(?:\.\d+)?)(?: ± [\d.,]+)?(?: \([^)]*\))?(?: of \d+ \(!\))?(?: \[[^]]*\] [a-z ]+)?"
)
_WIDE = 9
"""Columns that fit a printed page without breaking words."""
_INTERVAL = re.compile(r"(\S+) (\[[^]]*\]) ([a-z ]+)")
_ABSENT = ("", "missing", "–")


@dataclass(frozen=True)
class Command:
    """A command that the reader can copy, in a cell or a paragraph."""

    words: str


Value = Command | str | int | float | None
"""The types that a cell can hold."""


@dataclass(frozen=True)
class Cell:
    """A cell of a table."""

    text: str
    is_command: bool
    absent: bool
    """Whether it sorts after all others."""
    value: str | None
    """The sort key of a cell with a number; None: it holds none."""

    @property
    def parts(self) -> list[str]:
        """The parts of a difference with its interval, between which a line may end; others are one part."""
        match = _INTERVAL.fullmatch(self.text)
        return [self.text] if match is None else list(match.groups())


@dataclass(frozen=True)
class Grid:
    """A table with a caption and headings that sort."""

    caption: str
    header: list[tuple[str, bool]]
    """Names of the columns, and whether they hold numbers."""
    lines: list[list[Cell]]
    stacks: bool = True
    """Whether a phone shows each row as a block, value by value; else the table scrolls sideways."""

    @property
    def classes(self) -> str | None:
        """The CSS classes of the cell."""
        wanted = {"sortable": len(self.lines) > 1, "wide": len(self.header) > _WIDE, "stack": self.stacks}
        names = [name for name, is_wanted in wanted.items() if is_wanted]
        return " ".join(names) or None


def arrange(caption: str, header: Sequence[str], lines: Sequence[Sequence[Value]], stacks: bool = True) -> Grid:
    """A table of values.

    Args:
        caption: what it shows.
        header: a name for each column.
        lines: the rows; columns of numbers are right-aligned and sort by the number at the start of a cell.
        stacks: see `Grid`.
    """
    columns = list(zip(*lines, strict=True)) if lines else [() for _ in header]
    numeric = [_is_numeric(column) for column in columns]
    cells = [[_cell(value, number) for value, number in zip(line, numeric, strict=True)] for line in lines]
    return Grid(caption, list(zip(header, numeric, strict=True)), cells, stacks)


def _cell(value: Value, numeric: bool) -> Cell:
    if isinstance(value, Command):
        return Cell(value.words, True, False, None)
    text = "" if value is None else str(value)
    match = _NUMBER.fullmatch(text) if numeric else None
    return Cell(text, False, text in _ABSENT, match[1].replace(",", "") if match else None)


def _is_numeric(column: Sequence[Value]) -> bool:
    present = [value for value in column if value is not None and str(value) not in _ABSENT]
    return bool(present) and all(_NUMBER.fullmatch(str(value)) for value in present)
