"""The first screen of the report: the gains of all tables in one chart, and a picture of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dcnlab.ablations.plots import row_charts
from dcnlab.ablations.plots.charts import Chart
from dcnlab.ablations.plots.row_charts import Gain
from dcnlab.ablations.report import findings
from dcnlab.ablations.report.contents import Group, Row
from dcnlab.ablations.report.pictures import Album, Picture, names_in
from dcnlab.ablations.tables.comparison import bounds
from dcnlab.metrics.names import spoken

_ROWS = 12
"""Rows of the chart, at most, before each table has its best row alone."""
_PICTURES, _SIDE = 3, 560


@dataclass(frozen=True)
class Overview:
    """What the page begins with."""

    chart: Chart | None
    pictures: list[tuple[str, str, Picture]]
    """Label, description and content of each."""


def of_groups(groups: Sequence[Group], album: Album) -> Overview:
    """The overview of all tables.

    Args:
        groups: the tables' runs.
        album: of the page's pictures.
    """
    return Overview(_chart(groups), _pictures(groups, album))


def _chart(groups: Sequence[Group]) -> Chart | None:
    compared = [(group, row) for group in groups for row in _compared(group)]
    if len(compared) > _ROWS:
        compared = [(group, _compared(group)[0]) for group in groups if _compared(group)][:_ROWS]
    if not compared:
        return None
    several = len({id(group) for group, _ in compared}) > 1
    metrics = dict.fromkeys(spoken(str(findings.metric_of(group))) for group, _ in compared)
    caption = f"Difference to the row that a table compares with, in {', '.join(metrics)}"
    gains = [_gain(group, row, several) for group, row in compared]
    caption += "; the line is the 95% interval" if any(gain.low is not None for gain in gains) else ""
    return row_charts.gains(caption, gains)


def _compared(group: Group) -> list[Row]:
    """The rows of a table that have a difference, the best first."""
    metric = findings.metric_of(group)
    rows = [row for row in group.rows if row.figures.get(f"{metric}_difference") is not None]
    return sorted(rows, key=lambda row: findings.rank(row, metric))


def _gain(group: Group, row: Row, several: bool) -> Gain:
    metric = str(findings.metric_of(group))
    low, high = bounds(row.figures, metric) or (None, None)
    label = f"{group.title}: {row.label}" if several else row.label
    return Gain(label, row.figures[f"{metric}_difference"], low, high)


def _pictures(groups: Sequence[Group], album: Album) -> list[tuple[str, str, Picture]]:
    """A picture of the best row of each of the first tables that have any."""
    pictures: list[tuple[str, str, Picture]] = []
    for group in groups:
        metric = findings.metric_of(group)
        for row in sorted(group.rows, key=lambda row: findings.rank(row, metric)):
            folder = row.records[0].folder / "pictures" if row.records else None
            names = names_in(folder) if folder is not None else []
            if folder is None or not names:
                continue
            try:
                picture = album.take(folder / names[0], _SIDE)
            except ValueError:  # the section of the table says why
                continue
            label = f"{group.title}: {row.label}" if len(groups) > 1 else row.label
            pictures.append((label, f"test images of {label}, seed {row.records[0].seed}", picture))
            break
        if len(pictures) == _PICTURES:
            break
    return pictures
