"""Confusion: how often each class of a test was found as which class; read and written as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcnlab.io import json_file
from dcnlab.io.atomic import write_whole
from dcnlab.io.errors import DataError
from dcnlab.io.text import one_line

LARGEST = 64 * 2**20
"""Bytes of a file; a thousand classes take about 4 million."""
UNITS = ("images", "pixels")
_MOST = 2**53
"""Counts up to here are exact as fractions are taken."""


@dataclass(frozen=True)
class Confusion:
    """The confusion matrix of a test.

    Args:
        classes: names of the C classes.
        counts: (C, C) int64, rows the label, columns the prediction.
        unit: what is counted, images or pixels.
    """

    classes: tuple[str, ...]
    counts: NDArray[np.int64]
    unit: str

    def fractions(self) -> NDArray[np.float64]:
        """(C, C) in 0..1, of each row's sum; nan in the row of a class without a label."""
        with np.errstate(invalid="ignore"):
            return self.counts / self.counts.sum(1, keepdims=True)

    def most_confused(self, count: int) -> list[tuple[int, int]]:
        """The pairs of different classes, label and prediction, with the largest fractions above 0, largest first.

        Args:
            count: of pairs, at most.
        """
        wrong = np.nan_to_num(self.fractions())
        np.fill_diagonal(wrong, 0)
        order = np.argsort(-wrong, axis=None, kind="stable")[:count]
        pairs = [divmod(int(at), len(self.classes)) for at in order]
        return [pair for pair in pairs if wrong[pair] > 0]


def write(path: Path, confusion: Confusion) -> None:
    """Write a confusion matrix, whole or not at all, each label's row on a line.

    Raises:
        OSError: it cannot be written.
    """
    head = {"unit": confusion.unit, "rows": "label", "columns": "prediction", "classes": confusion.classes}
    rows = ",\n".join(json.dumps(row) for row in confusion.counts.tolist())
    write_whole(path, f'{json.dumps(head, indent=1)[:-2]},\n "counts": [\n{rows}\n]}}\n')


def read(path: Path) -> Confusion | None:
    """Read a confusion matrix; None without a file.

    Raises:
        DataError: it is not what a run writes; one line that names it.
    """
    try:
        tree = json_file.load(path, LARGEST)
    except FileNotFoundError:
        return None
    except (OSError, DataError) as error:
        raise DataError(f"{path} cannot be read ({one_line(error)})") from error
    if not isinstance(tree, dict) or tree.get("unit") not in UNITS or not _is_matrix(tree):
        raise DataError(f"{path} holds no confusion matrix: a unit, classes, and as many rows and columns of counts")
    return Confusion(tuple(tree["classes"]), np.array(tree["counts"], np.int64), tree["unit"])


def _is_matrix(tree: dict[str, Any]) -> bool:
    """Whether names and whole numbers of a square matrix are there."""
    names, counts = tree.get("classes"), tree.get("counts")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        return False
    if not isinstance(counts, list) or len(counts) != len(names):
        return False
    rows = [row for row in counts if isinstance(row, list) and len(row) == len(names)]
    return len(rows) == len(names) and all(_is_count(value) for row in rows for value in row)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MOST


def of(classes: Sequence[str], counts: Any, unit: str) -> Confusion:
    """The confusion matrix of a tensor or array of counts (C, C)."""
    return Confusion(tuple(classes), np.asarray(counts, np.int64), unit)
