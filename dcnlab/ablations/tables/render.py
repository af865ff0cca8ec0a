"""Renders tables: rich, Markdown or LaTeX for people, CSV or JSON for programs."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Sequence
from typing import Any

from dcnlab.ablations.tables import fitting, latex
from dcnlab.ablations.tables.block import Block
from dcnlab.io.text import csv_cell, markdown, say, visible

FORMATS = ("rich", "markdown", "latex", "csv", "json")


def render(rows: list[dict[str, Any]], blocks: Sequence[Block], form: str) -> str:
    """Text without escape codes; csv and json hold the rows at full precision, and nothing of the blocks.

    In csv, a mapping or list within a row is JSON text.

    Args:
        rows: for programs.
        blocks: for people.
        form: markdown, latex, csv or json; `rich` is for `show`.
    """
    if form == "json":
        return json.dumps(rows, indent=2)
    if form == "csv":
        return _csv(rows)
    if form == "latex":
        return "\n\n".join(latex.table(block.caption, block.header, block.lines) for block in blocks)
    from tabulate import tabulate

    parts = []
    for block in blocks:
        if block.caption:
            parts.append(markdown(block.caption))
        aligned = ["left", *["right"] * (len(block.header) - 1)]
        header, lines = [markdown(name) for name in block.header], [[*map(markdown, line)] for line in block.lines]
        parts.append(tabulate(lines, header, tablefmt="pipe", disable_numparse=True, colalign=aligned))
    return "\n\n".join(parts)


def _csv(rows: list[dict[str, Any]]) -> str:
    """Rows under the names of all their columns, in the order in which these first occur; what is missing is empty."""
    names, lines = flat(rows)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([[csv_cell(name) for name in names], *([csv_cell(value) for value in line] for line in lines)])
    return text.getvalue().rstrip("\n")


def flat(rows: Sequence[dict[str, Any]]) -> tuple[list[Any], list[Any]]:
    """All columns' names, in the order in which these first occur, and each row's values; what is missing is None.

    A mapping or list becomes JSON text.
    """
    names = list(dict.fromkeys(key for row in rows for key in row))
    return names, [[_flat(row.get(name)) for name in names] for row in rows]


def _flat(value: Any) -> Any:
    if isinstance(value, float) and math.isnan(value):
        return None
    return json.dumps(value) if isinstance(value, dict | list) else value


def show(blocks: Sequence[Block]) -> None:
    """Print the blocks with rich, one that is wider than the terminal in several, without cutting a cell.

    Plain text where stdout is not a terminal, as wide as it needs to be, or at most COLUMNS where that is set.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    console = Console(highlight=False, markup=False, emoji=False)
    plain = not console.is_terminal
    columns = os.environ.get("COLUMNS", "")
    width = (int(columns) if columns.isdecimal() else None) if plain else console.width
    if plain:  # no blanks at the ends of lines
        console = Console(highlight=False, markup=False, emoji=False, width=width or 1000, file=io.StringIO())
    for block in blocks:
        parts = [block] if width is None else fitting.parts(block, width)
        for caption, header, lines, _ in parts:
            grid = RichTable(title=Text(visible(caption)), title_justify="left", box=box.SIMPLE_HEAD)
            for at, name in enumerate(header):
                grid.add_column(Text(visible(name)), justify="left" if at == 0 else "right", overflow="fold")
            for line in lines:
                grid.add_row(*(Text(visible(cell)) for cell in line))
            console.print(grid)
    if plain:
        text = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
        say("\n".join(line.rstrip() for line in text), block=True)
