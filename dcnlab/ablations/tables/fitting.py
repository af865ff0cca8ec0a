"""Fits a table into a terminal: columns that are too many for its width go into further tables below."""

from __future__ import annotations

from dcnlab.ablations.tables.block import Block
from dcnlab.io.text import visible

_NARROWEST = 4
"""Characters that a word of a header may be broken to, where nothing else fits."""


def parts(block: Block, width: int) -> list[Block]:
    """Cut a table into tables of at most `width` characters, each with the names of the rows.

    A header is broken into lines before columns that belong together are parted, and no cell of a row is ever cut.

    Args:
        block: the table.
        width: of the terminal, characters.
    """
    if _width(block, range(len(block.header))) <= width:
        return [block]
    groups = list(block.groups) or [1] * len(block.header)
    names = list(range(groups[0]))
    starts = [sum(groups[:at]) for at in range(len(groups))]
    columns = [list(range(start, start + count)) for start, count in zip(starts, groups, strict=True)][1:]
    pages: list[list[int]] = []
    for group in columns:
        for piece in [group] if _width(block, [*names, *group]) <= width else [[at] for at in group]:
            if pages and _width(block, [*names, *pages[-1], *piece]) <= width:
                pages[-1] += piece
            else:
                pages.append(list(piece))
    cut = [_chosen(block, [*names, *page]) for page in pages]
    return [part._replace(caption=block.caption if at == 0 else "") for at, part in enumerate(cut)]


def _chosen(block: Block, columns: list[int]) -> Block:
    return Block("", [block.header[at] for at in columns], [[line[at] for at in columns] for line in block.lines])


def _width(block: Block, columns: range | list[int]) -> int:
    """Characters that rich draws some columns in, without breaking a header's words."""
    from rich.cells import cell_len

    total = 2 + max(0, len(columns) - 1)
    for at in columns:
        words = visible(block.header[at]).split() or [""]
        cells = [visible(line[at]) for line in block.lines]
        total += 2 + max(_NARROWEST, *map(cell_len, cells or [""]), *map(cell_len, words))
    return total
