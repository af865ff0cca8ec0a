"""Block: one table as people read it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Block(NamedTuple):
    """A table as people read it."""

    caption: str
    """Goes above; may be empty."""
    header: list[str]
    lines: list[list[str]]
    groups: Sequence[int] = ()
    """How many columns belong together, the rows' names first; empty: the first column names the rows."""
