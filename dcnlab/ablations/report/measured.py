"""What other commands left in a run folder, checked before it is shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dcnlab.ablations.collect import Record

SIZES = ("small", "medium", "large", "background")
"""What the centre of a filter lies on."""


def dilation(record: Record) -> list[list[str]] | None:
    """The rows of a run's dilation.json as people read them; None where it has none.

    Raises:
        ValueError: it is not what `dcnlab dilation` writes.
    """
    path = record.folder / "dilation.json"
    tree = _read(path)
    if tree is None:
        return None
    try:
        return [[str(row["layer"]), *(_cell(row[size]) for size in SIZES)] for row in tree["rows"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not what dcnlab dilation writes") from error


def robustness(record: Record, kind: str) -> tuple[str, dict[float, float]] | None:
    """The metric and the course of a run's robustness.json; None where it has none.

    Args:
        record: the run.
        kind: rotation, by degrees, or scale, by factor.

    Raises:
        ValueError: it is not of that form.
    """
    path = record.folder / "robustness.json"
    tree = _read(path)
    if tree is None:
        return None
    try:
        return str(tree["metric"]), {float(x): float(y) for x, y in tree[kind]}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a metric with pairs of {kind} and percent") from error


def _read(path: Path) -> Any:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON") from error


def _cell(cell: dict[str, Any] | None) -> str:
    if cell is None or cell["mean"] is None:
        return "–"
    return f"{cell['mean']:.2f}" if cell["std"] is None else f"{cell['mean']:.2f} ± {cell['std']:.2f}"
