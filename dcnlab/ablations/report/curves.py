"""Curves over steps: the mean of a row's runs, and the lowest and highest of them."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dcnlab.ablations.plots.charts import Curve
from dcnlab.ablations.report.contents import Row
from dcnlab.io.errors import ConfigError
from dcnlab.io.files import read_bytes
from dcnlab.io.text import one_line
from dcnlab.metrics import names as metric_names

LARGEST = 64 * 2**20
"""Bytes of a metrics.csv; a million steps take about that many."""


def curves(rows: Sequence[Row], points: int = 100, broken: list[str] | None = None) -> dict[str, list[Curve | None]]:
    """The learning curves of a table's rows, by metric: train/loss first, then what was scored in between.

    Args:
        rows: of one table; each metric has an entry for each of them, None if it has no values.
        points: maximum of a curve; longer ones are averaged over neighbouring steps.
        broken: takes a line for each file that cannot be read and is left out; None raises the error.
    """
    series = [[_read_or_note(record.folder / "metrics.csv", broken) for record in row.records] for row in rows]
    names = {
        name for courses in series for course in courses for name in course if name == "train/loss" or _validates(name)
    }
    by_metric = {}
    for name in sorted(names, key=lambda name: (name != "train/loss", name)):
        lines = [
            envelope(row.label, [course[name] for course in courses if name in course], points)
            for row, courses in zip(rows, series, strict=True)
        ]
        if any(lines):
            by_metric[name] = lines
    return by_metric


def _read_or_note(path: Path, broken: list[str] | None) -> dict[str, dict[float, float]]:
    try:
        return read_metrics(path)
    except ConfigError as error:
        if broken is None:
            raise
        broken.append(f"left out: {error}")
        return {}


def _validates(name: str) -> bool:
    place, _, metric = name.partition("/")
    return place == "val" and metric_names.is_headline(metric)


def read_metrics(path: Path) -> dict[str, dict[float, float]]:
    """Finite values of a metrics.csv by column and step; empty where there is none.

    Raises:
        ConfigError: it is not CSV, or too large.
    """
    columns: dict[str, dict[float, float]] = {}
    try:
        text = io.StringIO(read_bytes(path, LARGEST).decode(errors="replace"), newline="")
        for line in csv.DictReader(text):
            step = _number(line.get("step"))
            for name, cell in line.items():
                value = _number(cell)
                if step is not None and value is not None and name not in (None, "step", "epoch"):
                    columns.setdefault(name, {})[step] = value
    except FileNotFoundError:
        return {}
    except (csv.Error, OSError, ValueError, MemoryError) as error:
        raise ConfigError(f"{path}: not CSV: {one_line(error)}") from error
    return columns


def _number(text: Any) -> float | None:
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def envelope(label: str, courses: Sequence[dict[float, float]], points: int) -> Curve | None:
    """Mean, lowest and highest at the steps that all courses have; None where they share fewer than two."""
    shared = sorted(set.intersection(*(set(course) for course in courses))) if courses else []
    if len(shared) < 2:
        return None
    size = -(-len(shared) // points)
    bins = [shared[at : at + size] for at in range(0, len(shared), size)]
    binned = [[statistics.fmean(course[step] for step in steps) for steps in bins] for course in courses]
    columns = list(zip(*binned, strict=True))
    return Curve(
        label,
        [statistics.fmean(steps) for steps in bins],
        [statistics.fmean(column) for column in columns],
        [min(column) for column in columns],
        [max(column) for column in columns],
        len(courses),
    )
