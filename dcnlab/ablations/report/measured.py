"""The dilation.json and robustness.json of run folders, checked before they are shown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dcnlab.ablations.report.contents import Row
from dcnlab.ablations.report.grid import Grid, arrange
from dcnlab.ablations.tables import dilation_file, dilation_table, paper
from dcnlab.ablations.tables.block import Block
from dcnlab.io import json_file
from dcnlab.io.errors import ConfigError
from dcnlab.io.text import one_line
from dcnlab.training import results_file


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


def robustness(folder: Path, kind: str) -> tuple[str, dict[float, float]] | None:
    """The metric and the curve of a run's robustness.json; None where it has none.

    Args:
        folder: the run's.
        kind: rotation, by degrees, or scale, by factor.

    Raises:
        ConfigError: it is not of that form.
    """
    path = folder / "robustness.json"
    try:
        tree = json_file.load(path, results_file.MAX_BYTES)
        json_file.check_depth(tree)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: not JSON ({one_line(error)})") from error
    try:
        curve = {float(x): float(y) for x, y in tree[kind]}
        if not all(map(math.isfinite, (*curve, *curve.values()))):
            raise ValueError("not finite")
        return str(tree["metric"]), curve
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"{path}: not a metric with pairs of {kind} and percent") from error
