"""Renders tables: rich, Markdown or LaTeX for people, CSV or JSON for programs."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from dcnlab.io.text import csv_cell, markdown, say, visible

FORMATS = ("rich", "markdown", "latex", "csv", "json")


class Block(NamedTuple):
    """A table as people read it."""

    caption: str
    """Goes above; may be empty."""
    header: list[str]
    lines: list[list[str]]


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
        import pandas as pd

        # Object columns keep whole numbers whole where a row is missing.
        flat = [{csv_cell(key): _flat(value) for key, value in row.items()} for row in rows]
        return pd.DataFrame(flat, dtype=object).to_csv(index=False).rstrip("\n")
    from tabulate import tabulate

    safe = markdown if form == "markdown" else visible

    def one_table(block: Block) -> str:
        style = {"markdown": "pipe", "latex": "latex_booktabs"}[form]
        aligned = ["left", *["right"] * (len(block.header) - 1)]
        header, lines = [safe(name) for name in block.header], [[safe(cell) for cell in line] for line in block.lines]
        made = tabulate(lines, header, tablefmt=style, disable_numparse=True, colalign=aligned)
        return made.replace("±", r"$\pm$") if form == "latex" else made

    parts = []
    for block in blocks:
        if block.caption:
            parts.append(f"% {safe(block.caption)}" if form == "latex" else safe(block.caption))
        parts.append(one_table(block))
    return "\n\n".join(parts)


def _flat(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict | list) else csv_cell(value)


def show(blocks: Sequence[Block]) -> None:
    """Print the blocks with rich; plain text where stdout is not a terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    console = Console(highlight=False, markup=False, emoji=False)
    plain = not console.is_terminal
    if plain:  # as wide as it needs to be, and no blanks at the ends of lines
        console = Console(highlight=False, markup=False, emoji=False, width=1000, file=io.StringIO())
    for caption, header, lines in blocks:
        grid = RichTable(title=Text(visible(caption)), title_justify="left", box=box.SIMPLE_HEAD)
        for at, name in enumerate(header):
            grid.add_column(Text(visible(name)), justify="left" if at == 0 else "right")
        for line in lines:
            grid.add_row(*(Text(visible(cell)) for cell in line))
        console.print(grid)
    if plain:
        lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
        say("\n".join(line.rstrip() for line in lines), block=True)
