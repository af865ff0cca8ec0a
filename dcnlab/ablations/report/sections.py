"""The sections of the report on tables' runs, ready for the template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dcnlab.ablations.numbers import MISSING, mean_and_std
from dcnlab.ablations.plots import charts, row_charts
from dcnlab.ablations.plots.charts import Chart
from dcnlab.ablations.report import findings
from dcnlab.ablations.report.confused import Confused, of_confusion
from dcnlab.ablations.report.contents import Group, Row
from dcnlab.ablations.report.courses import Charted, learning_curves, robustness
from dcnlab.ablations.report.grid import Grid, Value, arrange
from dcnlab.ablations.report.measured import Measured, dilations
from dcnlab.ablations.report.pictures import Album, Pictures, of_rows
from dcnlab.ablations.report.runs import Repeat, costs, each_run, how_to_repeat
from dcnlab.ablations.tables import table as tables
from dcnlab.ablations.tables.block import Block
from dcnlab.ablations.tables.layout import COSTS
from dcnlab.ablations.tables.table import Table
from dcnlab.metrics.names import spoken

_METRIC_CHARTS = 3
_PERCENT = " (%)"
_SETTINGS = 6
"""Settings that are named, at most, if runs of one name differ."""


@dataclass(frozen=True)
class GroupSection:
    """All that the page shows of one table's runs."""

    title: str
    finding: str
    apart: str
    """Settings in which these runs differ from others of that name; empty if there are none."""
    charts: list[Chart]
    tables: list[Grid]
    notes: list[str]
    curves: Charted
    confusion: Confused
    classes: list[Grid]
    dilation: Measured
    robustness: Charted
    costs: Grid
    pictures: Pictures
    runs: Grid
    repeats: list[Repeat]
    command: str | None


@dataclass(frozen=True)
class PaperSection:
    """One of the paper's tables, filled in from the runs."""

    title: str
    tables: list[Grid]
    notes: list[str]


def of_group(group: Group, album: Album) -> GroupSection:
    """All of one table's runs: results, curves, classes, costs, pictures, and how to repeat them.

    Args:
        group: the runs.
        album: of the page's pictures.
    """
    rows = _shown(group)
    return GroupSection(
        title=group.title,
        finding=findings.finding(group),
        apart=_named(group.apart),
        charts=_charts(group, rows),
        tables=[
            results(block.caption, block)
            for block in tables.blocks(group.table, f"{group.title}: mean and spread over seeds")
        ],
        notes=group.table.notes,
        curves=learning_curves(group, rows),
        confusion=of_confusion(group.title, rows, _compared(group, rows), album),
        classes=_classes(group, rows),
        dilation=dilations(group.rows),
        robustness=robustness(group, rows),
        costs=costs(group),
        pictures=of_rows(rows, album),
        runs=each_run(group),
        repeats=[how_to_repeat(row, record) for row in group.rows for record in row.records],
        command=group.command,
    )


def kinds(name: str, groups: Sequence[Group]) -> Grid:
    """The settings in which the tables of one name differ, and the best score of each table."""
    named = [group for group in groups if group.name == name]
    keys = list(named[0].apart)[:_SETTINGS]
    lines: list[list[Value]] = []
    for group in named:
        metric = findings.metric_of(group)
        top = min(group.rows, key=lambda row: findings.rank(row, metric))
        scored = metric is not None and top.figures.get(metric) is not None
        score = findings.figure(top, str(metric)).removesuffix(" %") if scored else MISSING
        spoken_metric = None if metric is None else spoken(metric)
        lines.append([group.title, *(group.apart.get(key, "") for key in keys), spoken_metric, score])
    more = len(named[0].apart) - len(keys)
    caption = f"{name}: one table for each set of settings, and the best score of each"
    caption += f" ({more} more settings differ)" if more > 0 else ""
    return arrange(caption, ["table", *keys, "metric", "score (%)"], lines)


def of_paper(table: Table) -> PaperSection:
    """One of the paper's tables, filled in from the runs."""
    name = table.title.partition(":")[0]
    blocks = tables.blocks(table, "")
    grids = [results(f"{name}: {block.caption}", block) for block in blocks]
    return PaperSection(table.title, grids, table.notes)


def results(caption: str, block: Block) -> Grid:
    """A table of results: metrics as people write them, without the costs, which have a table."""
    dropped = len(COSTS) - 1 if block.header[-len(COSTS) :] == COSTS else 0
    header = block.header[: len(block.header) - dropped]
    words = [f"{spoken(name.removesuffix(_PERCENT))}{_PERCENT}" if name.endswith(_PERCENT) else name for name in header]
    return arrange(caption, words, [line[: len(header)] for line in block.lines])


def _named(apart: dict[str, str]) -> str:
    shown = [f"{key} {value}" for key, value in list(apart.items())[:_SETTINGS]]
    more = len(apart) - len(shown)
    return ", ".join([*shown, *([f"and {more} more"] if more > 0 else [])])


def _shown(group: Group) -> list[Row]:
    """The rows that charts have room for: the first, and the best of the others."""
    if len(group.rows) <= charts.LINES:
        return group.rows
    metric = findings.metric_of(group)
    ranked = sorted(range(1, len(group.rows)), key=lambda at: findings.rank(group.rows[at], metric))
    return [group.rows[at] for at in sorted([0, *ranked[: charts.LINES - 1]])]


def _compared(group: Group, rows: Sequence[Row]) -> list[Row]:
    """The row that others are compared with, and the best; the same one is there once."""
    metric = findings.metric_of(group)
    base = next((row for row in rows if row.figures["base"]), rows[0])
    top = min(rows, key=lambda row: findings.rank(row, metric))
    return [base] if top is base else [base, top]


def _charts(group: Group, rows: Sequence[Row]) -> list[Chart]:
    """A chart of the runs' values for each of the first metrics, if there are two or more to compare."""
    charts_of_metrics = []
    for metric in group.section.shown[:_METRIC_CHARTS]:
        scored = [row for row in rows if row.figures.get(metric) is not None]
        if len(scored) > 1 or (scored and len(_values(scored[0], metric)) > 1):
            caption = f"{spoken(metric)}: a circle for each run, a bar at their mean"
            bases = [row.figures[metric] for row in scored if row.figures["base"]]
            if len(bases) == 1:
                caption += "; the dashed line is the mean of the row that others are compared with"
            points = [(row.label, _values(row, metric)) for row in scored]
            base = bases[0] if len(bases) == 1 else None
            charts_of_metrics.append(row_charts.dots(spoken(metric), caption, points, base))
    return charts_of_metrics


def _values(row: Row, metric: str) -> list[float]:
    return list(row.figures[f"{metric}_values"].values())


def _classes(group: Group, rows: Sequence[Row]) -> list[Grid]:
    """A table for each family of metrics of single classes, such as iou/road."""
    families: dict[str, list[str]] = {}
    for metric in group.section.metrics:
        family, slash, _ = metric.partition("/")
        if slash:
            families.setdefault(family, []).append(metric)
    header = ["class", *(row.label for row in rows)]
    grids = []
    for family, metrics in families.items():
        lines = [[metric.partition("/")[2], *(_in_class(row.figures, metric) for row in rows)] for metric in metrics]
        caption = f"{group.title}: {spoken(family)} of each class (%), and the difference as above"
        grids.append(arrange(caption, header, lines, stacks=False))
    return grids


def _in_class(row: dict[str, Any], metric: str) -> str:
    mean, std, difference = (row.get(f"{metric}{ending}") for ending in ("", "_std", "_difference"))
    text = mean_and_std(mean, std, 1)
    return text if mean is None or difference is None else f"{text} ({difference:+.1f})"
