"""Tables as text: for people in rich, Markdown or LaTeX, for programs in CSV or JSON."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

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
        flat = [{key: json.dumps(v) if isinstance(v, dict | list) else v for key, v in row.items()} for row in rows]
        return pd.DataFrame(flat, dtype=object).to_csv(index=False).rstrip("\n")
    from tabulate import tabulate

    def one(block: Block) -> str:
        style = {"markdown": "pipe", "latex": "latex_booktabs"}[form]
        aligned = ["left", *["right"] * (len(block.header) - 1)]
        text = tabulate(block.lines, block.header, tablefmt=style, disable_numparse=True, colalign=aligned)
        return text.replace("±", r"$\pm$") if form == "latex" else text

    parts = []
    for block in blocks:
        if block.caption:
            parts.append(f"% {block.caption}" if form == "latex" else block.caption)
        parts.append(one(block))
    return "\n\n".join(parts)


def show(blocks: Sequence[Block]) -> None:
    """Print the blocks with rich; plain text where stdout is no terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    console = Console(highlight=False, markup=False, emoji=False)
    plain = not console.is_terminal
    if plain:  # as wide as it needs to be, and no blanks at the ends of lines
        console = Console(highlight=False, markup=False, emoji=False, width=1000, file=io.StringIO())
    for caption, header, lines in blocks:
        grid = RichTable(title=Text(caption), title_justify="left", box=box.SIMPLE_HEAD)
        for at, name in enumerate(header):
            grid.add_column(Text(name), justify="left" if at == 0 else "right")
        for line in lines:
            grid.add_row(*map(Text, line))
        console.print(grid)
    if plain:
        print("\n".join(line.rstrip() for line in console.file.getvalue().splitlines()))  # type: ignore[attr-defined]
