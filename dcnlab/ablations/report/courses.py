"""Charts over steps, angles and factors: learning curves and robustness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from dcnlab.ablations.analysis import robustness_file
from dcnlab.ablations.plots import charts
from dcnlab.ablations.plots.charts import Chart, Shape
from dcnlab.ablations.report import curves
from dcnlab.ablations.report.contents import Group, Row
from dcnlab.io.errors import ConfigError
from dcnlab.metrics.names import spoken

_CAPTIONS = {"train/loss": "Training loss by step", "val/loss": "Validation loss by step"}
_CHANGES = {"rotation": ("under rotation", "angle, degrees"), "scale": ("under scaling", "factor")}


@dataclass(frozen=True)
class Charted:
    """Charts under one heading and one legend."""

    charts: list[Chart] | None = None
    """None, and then no heading either, if there are no curves."""
    legend: list[tuple[str, list[Shape]]] = field(default_factory=list)
    more: int = 0
    """Rows that the charts leave out."""
    notes: list[str] = field(default_factory=list)


def learning_curves(group: Group, rows: Sequence[Row]) -> Charted:
    """The losses and scores of a table's rows by step.

    Args:
        group: the table's runs.
        rows: those that charts have room for.
    """
    notes: list[str] = []
    by_metric = curves.curves(rows, broken=notes)
    if not by_metric:
        return Charted(notes=notes)
    learning_charts = [
        charts.lines(name, _CAPTIONS.get(name) or _of_validation(name), lines, "step")
        for name, lines in by_metric.items()
    ]
    return _charted(group, rows, learning_charts, notes)


def _of_validation(name: str) -> str:
    return f"{spoken(name.partition('/')[2])} in validation (%) by step"


def robustness(group: Group, rows: Sequence[Row]) -> Charted:
    """The scores of a table's rows on rotated and scaled images.

    Args:
        group: the table's runs.
        rows: those that charts have room for.
    """
    notes: list[str] = []
    measured = [_measured(row, notes) for row in rows]
    robustness_charts: list[Chart] = []
    for change, (words, axis) in _CHANGES.items():
        lines = [
            curves.envelope(row.label, [getattr(run, change) for run in runs], 1000)
            for row, runs in zip(rows, measured, strict=True)
        ]
        if any(lines):
            metric = spoken(robustness_file.METRIC)
            robustness_charts.append(charts.lines(f"{metric} {words}", f"{metric} (%) {words}", lines, axis))
    return _charted(group, rows, robustness_charts, notes) if robustness_charts or notes else Charted()


def _measured(row: Row, notes: list[str]) -> list[robustness_file.Curves]:
    """The robustness of a row's runs; a file that cannot be read becomes a note."""
    measured = []
    for record in row.records:
        try:
            measured.append(robustness_file.read(record.folder))
        except ConfigError as error:
            notes.append(str(error))
    return [run for run in measured if run is not None]


def _charted(group: Group, rows: Sequence[Row], drawn_charts: list[Chart], notes: list[str]) -> Charted:
    labels = [row.label for row in rows]
    return Charted(drawn_charts, charts.legend(labels) if len(labels) > 1 else [], len(group.rows) - len(rows), notes)
