"""Tables of the dilation.json of run folders, which are checked before they are shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dcnlab.ablations.report.contents import Row
from dcnlab.ablations.report.grid import Grid, arrange
from dcnlab.ablations.tables import dilation_file, dilation_table, paper
from dcnlab.ablations.tables.block import Block
from dcnlab.io.errors import ConfigError


class Measured(NamedTuple):
    """Measurements of a table's runs, and notes on unreadable files."""

    tables: list[Grid]
    notes: list[str]


def dilations(rows: Sequence[Row]) -> Measured:
    """The effective dilation of every run that has a dilation.json."""
    measured = Measured([], [])
    for row in rows:
        for record in row.records:
            try:
                block = dilation(record.folder)
            except ConfigError as error:
                measured.notes.append(str(error))
                continue
            if block is not None:
                caption = f"{row.label}, {record.folder}: {block.caption}"
                measured.tables.append(arrange(caption, block.header, block.lines, stacks=False))
    return measured


def dilation(folder: Path) -> Block | None:
    """A run's dilation.json, each layer next to the paper's; None without such a file.

    Raises:
        ConfigError: it is not what `dcnlab dilation` writes.
    """
    measured = dilation_file.read(folder)
    if measured is None:
        return None
    images = "" if measured.images is None else f"{measured.images} images; "
    caption = f"{images}the paper's table 2 is of {paper.read('table2')['data']}"
    return dilation_table.layout(dilation_table.of_run(measured.layers), caption=caption, missing="–")
