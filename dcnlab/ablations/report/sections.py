"""What the report shows of one table's runs, ready for the template."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dcnlab.ablations.numbers import MISSING, mean_and_std
from dcnlab.ablations.plots import charts
from dcnlab.ablations.plots.charts import Chart
from dcnlab.ablations.report import findings
from dcnlab.ablations.report.courses import Charted, learning_curves, robustness
from dcnlab.ablations.report.gather import Group, Row
from dcnlab.ablations.report.grid import Grid, Value, arrange
from dcnlab.ablations.report.measured import Measured, dilations
from dcnlab.ablations.report.pictures import Album, Pictures, of_rows
from dcnlab.ablations.tables import layout
from dcnlab.ablations.tables import table as tables
from dcnlab.ablations.tables.collect import CODE
from dcnlab.ablations.tables.run_record import Record
from dcnlab.ablations.tables.table import Table
from dcnlab.io import yaml_file
from dcnlab.io.files import read_bytes

_METRIC_CHARTS = 3
_SETTINGS = 6
"""The most that are named where runs of one name differ."""


@dataclass(frozen=True)
class Repeat:
    """How to repeat one run."""

    title: str
    name: str
    made_with: str
    command: str
    config: str


@dataclass(frozen=True)
class GroupSection:
    """All that the page shows of one table's runs."""

    title: str
    finding: str
    apart: str
    """The settings that tell these runs from others of the name; empty where there are no others."""
    charts: list[Chart]
    tables: list[Grid]
    notes: list[str]
    curves: Charted
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
    """One of the paper's tables, with what the runs fill in."""

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
            arrange(block.caption, block.header, block.lines)
            for block in tables.blocks(group.table, f"{group.title}: mean and spread over seeds")
        ],
        notes=group.table.notes,
        curves=learning_curves(group, rows),
        classes=_classes(group, rows),
        dilation=dilations(group.rows),
        robustness=robustness(group, rows),
        costs=_costs(group),
        pictures=of_rows(rows, album),
        runs=_runs(group),
        repeats=[_repeat(row, record) for row in group.rows for record in row.records],
        command=group.command,
    )


def kinds(name: str, groups: Sequence[Group]) -> Grid:
    """The settings in which runs of one name differ that share no table, and the best score of each."""
    named = [group for group in groups if group.name == name]
    keys = list(named[0].apart)[:_SETTINGS]
    lines: list[list[Value]] = []
    for group in named:
        metric = findings.metric_of(group)
        top = min(group.rows, key=lambda row: findings.rank(row, metric))
        scored = metric is not None and top.figures.get(metric) is not None
        score = findings.figure(top, str(metric)).removesuffix(" %") if scored else MISSING
        lines.append([group.title, *(group.apart.get(key, "") for key in keys), metric, score])
    more = len(named[0].apart) - len(keys)
    caption = f"{name}: runs that no one table can hold, and their best score"
    caption += f" ({more} more settings differ)" if more > 0 else ""
    return arrange(caption, ["table", *keys, "metric", "score (%)"], lines)


def of_paper(table: Table) -> PaperSection:
    """One of the paper's tables, with what the runs fill in."""
    name = table.title.partition(":")[0]
    blocks = tables.blocks(table, "")
    grids = [arrange(f"{name}: {block.caption}", block.header, block.lines) for block in blocks]
    return PaperSection(table.title, grids, table.notes)


def _named(apart: dict[str, str]) -> str:
    shown = [f"{key} {value}" for key, value in list(apart.items())[:_SETTINGS]]
    more = len(apart) - len(shown)
    return ", ".join([*shown, *([f"and {more} more"] if more > 0 else [])])


def _shown(group: Group) -> list[Row]:
    """The rows that charts have room for: the first, and of the others the best."""
    if len(group.rows) <= charts.LINES:
        return group.rows
    metric = findings.metric_of(group)
    ranked = sorted(range(1, len(group.rows)), key=lambda at: findings.rank(group.rows[at], metric))
    return [group.rows[at] for at in sorted([0, *ranked[: charts.LINES - 1]])]


def _charts(group: Group, rows: Sequence[Row]) -> list[Chart]:
    """Of each of the first metrics the runs' values, where there are two or more to compare."""
    made = []
    for metric in group.section.shown[:_METRIC_CHARTS]:
        scored = [row for row in rows if row.figures.get(metric) is not None]
        if len(scored) > 1 or (scored and len(_values(scored[0], metric)) > 1):
            caption = f"{metric}: a circle a run, the bar their mean"
            bases = [row.figures[metric] for row in scored if row.figures["base"]]
            if len(bases) == 1:
                caption += "; the dashed line is the mean of the row that others are compared with"
            points = [(row.label, _values(row, metric)) for row in scored]
            made.append(charts.dots(metric, caption, points, bases[0] if len(bases) == 1 else None))
    return made


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
    made = []
    for family, metrics in families.items():
        lines = [[metric.partition("/")[2], *(_in_class(row.figures, metric) for row in rows)] for metric in metrics]
        made.append(arrange(f"{group.title}: {family} of each class (%), and the difference as above", header, lines))
    return made


def _in_class(row: dict[str, Any], metric: str) -> str:
    mean, std, difference = (row.get(f"{metric}{ending}") for ending in ("", "_std", "_difference"))
    text = mean_and_std(mean, std, 1)
    return text if mean is None or difference is None else f"{text} ({difference:+.1f})"


def _costs(group: Group) -> Grid:
    header = [*_swept(group), "parameters", "MACs (M)", "seconds of training", "images/s", "peak memory (MiB)"]
    lines: list[list[Value]] = []
    for row in group.rows:
        model, cost = ([record.results[part] for record in row.records] for part in ("model", "cost"))
        lines.append(
            [
                *row.settings,
                _mean(model, "params", 1, ",.0f"),
                _mean(model, "macs", 1e-6, ",.2f"),
                _mean(cost, "train_seconds", 1, ",.1f"),
                _mean(cost, "images_per_second", 1, ",.1f"),
                _mean(cost, "peak_memory_bytes", 2**-20, ",.0f"),
            ]
        )
    return arrange(f"{group.title}: costs, means over the runs of a row", header, lines)


def _swept(group: Group) -> list[str]:
    return [name.rpartition(".")[2] for name in group.section.swept] or ["setting"]


def _mean(parts: Sequence[dict[str, Any]], key: str, factor: float, form: str) -> str:
    values = [part[key] * factor for part in parts if part.get(key) is not None]
    return f"{statistics.fmean(values):{form}}" if values else MISSING


def _runs(group: Group) -> Grid:
    metrics = group.section.shown
    named = CODE in group.section.swept  # the settings name it then
    header = ["run", *_swept(group), "seed", *(f"{metric} (%)" for metric in metrics), "seconds"]
    lines: list[list[Value]] = []
    for row in group.rows:
        for record in row.records:
            scores, seconds = record.results["metrics"], record.results["cost"].get("train_seconds")
            line: list[Value] = [record.folder.name, *row.settings, record.seed]
            line += [mean_and_std(scores.get(metric), missing="") for metric in metrics]
            line.append("" if seconds is None else f"{seconds:.1f}")
            lines.append([*line, *([] if named else [layout.label(CODE, record.code)])])
    return arrange(f"{group.title}: each run that the tables count", [*header, *([] if named else [CODE])], lines)


def _repeat(row: Row, record: Record) -> Repeat:
    path = record.folder / "config.yaml"
    return Repeat(
        title=f"{record.folder.name}: {row.label}, seed {record.seed}",
        name=record.folder.name,
        made_with=_made_with(record),
        command=f"dcnlab fit {shlex.quote(str(path))} id=null",
        config=read_bytes(path, yaml_file.LARGEST).decode("utf-8-sig", "replace"),
    )


def _made_with(record: Record) -> str:
    environment = record.results["environment"]
    device = environment.get("gpu") or environment.get("cpu") or "an unnamed machine"
    count = environment.get("world_size") or 1
    several = f"{count} processes, each on " if count > 1 else ""
    return f"Made with {record.code} and torch {environment.get('torch')} on {several}{device}."
