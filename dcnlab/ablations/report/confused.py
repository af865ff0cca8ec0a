"""The confusion matrices of a table's runs: their pictures, and the pairs of classes that are confused most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dcnlab.ablations.report.contents import Row
from dcnlab.ablations.report.grid import Grid, arrange
from dcnlab.ablations.report.pictures import Album, Picture
from dcnlab.io.errors import DataError
from dcnlab.metrics import confusion
from dcnlab.metrics.confusion import Confusion
from dcnlab.training.run_folder import RunFolder

LARGEST = 2200
"""Longer side of a picture, its own pixels, of which the page shows two as one."""
_PAIRS, _LINES = 5, 8
"""Pairs of each row, and of the table, at most."""


class Confused(NamedTuple):
    """What the runs of a table confuse."""

    pictures: list[tuple[str, str, Picture]]
    """Label, description and content of each row's picture."""
    pairs: Grid | None
    notes: list[str]


def of_confusion(title: str, rows: Sequence[Row], drawn: Sequence[Row], album: Album) -> Confused:
    """Pictures of some rows' first runs, and a table of what all runs confuse.

    Args:
        title: of the table.
        rows: those that the page has room for.
        drawn: those of them whose pictures are shown.
        album: of the page's pictures.
    """
    notes: list[str] = []
    summed = {row.label: _sum(row, notes) for row in rows}
    counted = {label: matrix for label, matrix in summed.items() if matrix is not None}
    pictures = []
    for row in drawn:
        path = RunFolder(row.records[0].folder).confusion_picture if row.records else None
        if row.label not in counted or path is None or not path.is_file():
            continue
        try:
            picture = album.take(path, LARGEST, drawn=True)
        except ValueError as error:
            notes.append(f"left out: {path}: {error}")
            continue
        described = f"confusion matrix of {row.label}, seed {row.records[0].seed}"
        pictures.append((row.label, described, picture))
    return Confused(pictures, _pairs(title, counted), notes)


def _sum(row: Row, notes: list[str]) -> Confusion | None:
    """The confusion matrix of all runs of a row; None without one."""
    matrices = []
    for record in row.records:
        try:
            matrix = confusion.read(RunFolder(record.folder).confusion)
        except DataError as error:
            notes.append(str(error))
            continue
        if matrix is not None:
            matrices.append(matrix)
    same = [matrix for matrix in matrices if matrix.classes == matrices[0].classes]
    if not same:
        return None
    return Confusion(same[0].classes, np.sum([matrix.counts for matrix in same], axis=0), same[0].unit)


def _pairs(title: str, counted: dict[str, Confusion]) -> Grid | None:
    """A table of the pairs that any row confuses most, with the percentage in every row."""
    pairs: dict[tuple[str, str], float] = {}
    for matrix in counted.values():
        for at in matrix.most_confused(_PAIRS):
            names = matrix.classes[at[0]], matrix.classes[at[1]]
            pairs[names] = max(pairs.get(names, 0.0), float(matrix.fractions()[at]))
    if not pairs:
        return None
    lines = [
        [f"{label} as {found}", *(_percent(matrix, label, found) for matrix in counted.values())]
        for label, found in sorted(pairs, key=lambda names: -pairs[names])[:_LINES]
    ]
    unit = next(iter(counted.values())).unit
    caption = f"{title}: classes confused most, percent of the {unit} of a class, all runs of a row together"
    return arrange(caption, ["label as found", *counted], lines)


def _percent(matrix: Confusion, label: str, found: str) -> str:
    if label not in matrix.classes or found not in matrix.classes:
        return ""
    value = matrix.fractions()[matrix.classes.index(label), matrix.classes.index(found)]
    return "" if np.isnan(value) else f"{100 * value:.1f}"
