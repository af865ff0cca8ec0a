"""What the report says about the runs of one table."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dcnlab.ablations.numbers import MISSING, mean_and_std
from dcnlab.ablations.report import charts, curves, findings, measured
from dcnlab.ablations.report.curves import Curve
from dcnlab.ablations.report.gather import Group, Row
from dcnlab.ablations.report.grid import grid
from dcnlab.ablations.report.markup import Child, Markup, el, join
from dcnlab.ablations.report.pictures import Album
from dcnlab.ablations.tables import layout
from dcnlab.ablations.tables import table as tables
from dcnlab.ablations.tables.collect import CODE
from dcnlab.ablations.tables.run_record import Record
from dcnlab.ablations.tables.table import Table
from dcnlab.io import yaml_file
from dcnlab.io.errors import ConfigError
from dcnlab.io.files import read_bytes

_METRIC_CHARTS = 3
_PICTURES_OF_A_RUN = 4
_LEFT_OUT = 8
_SETTINGS = 6
"""The most that are named where runs of one name differ."""


def group(one: Group, album: Album) -> Markup:
    """All of one table's runs: results, curves, classes, costs, pictures, and how to repeat them.

    Args:
        one: the group.
        album: of the page's pictures.
    """
    parts = [
        el("p", None, f"Of the runs of this name, those with {_named(one.apart)}.") if one.apart else None,
        _results(one),
        _curves(one),
        _classes(one),
        _dilation(one),
        _robustness(one),
        _costs(one),
        _pictures(one, album),
        _runs(one),
    ]
    return join(*parts)


def kinds(name: str, groups: Sequence[Group]) -> Markup:
    """Side by side the settings of runs that share a name and no table: what differs, and the best score of each."""
    own = [one for one in groups if one.name == name]
    keys = list(own[0].apart)[:_SETTINGS]
    lines: list[list[Child]] = []
    for one in own:
        metric = findings.metric_of(one)
        top = min(one.rows, key=lambda row: findings.rank(row, metric))
        scored = metric is not None and top.figures.get(metric) is not None
        score = findings.figure(top, str(metric)).removesuffix(" %") if scored else MISSING
        lines.append([one.title, *(one.apart.get(key, "") for key in keys), metric, score])
    more = len(own[0].apart) - len(keys)
    caption = f"{name}: runs that no one table can hold, and their best score"
    caption += f" ({more} more settings differ)" if more > 0 else ""
    return grid(caption, ["table", *keys, "metric", "score (%)"], lines)


def _named(apart: dict[str, str]) -> str:
    shown = [f"{key} {value}" for key, value in list(apart.items())[:_SETTINGS]]
    more = len(apart) - len(shown)
    return ", ".join([*shown, *([f"and {more} more"] if more > 0 else [])])


def of_paper(table: Table) -> Markup:
    """One of the paper's tables, with what the runs fill in."""
    name = table.title.partition(":")[0]
    blocks = [grid(f"{name}: {block.caption}", block.header, block.lines) for block in tables.blocks(table, "")]
    return join(el("h3", None, table.title), *blocks, notes(table.notes))


def notes(lines: Sequence[str]) -> Markup:
    """Notes, where there are any."""
    if not lines:
        return Markup()
    items = [el("li", None, line) for line in lines]
    return el("div", {"class": "notes"}, el("p", None, el("strong", None, "Note")), el("ul", None, *items))


def command(words: str) -> Markup:
    """A command to copy."""
    return el("div", {"class": "command"}, el("pre", {"tabindex": "0"}, el("code", None, words)))


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _results(one: Group) -> Markup:
    figures = []
    for metric in one.section.shown[:_METRIC_CHARTS]:
        scored = [row for row in _shown(one) if row.figures.get(metric) is not None]
        if len(scored) > 1 or (scored and len(_values(scored[0], metric)) > 1):
            caption = f"{metric}: a circle a run, the bar their mean"
            bases = [row.figures[metric] for row in scored if row.figures["base"]]
            if len(bases) == 1:
                caption += "; the dashed line is the mean of the row that others are compared with"
            points = [(row.label, _values(row, metric)) for row in scored]
            figures.append(charts.dots(metric, caption, points, bases[0] if len(bases) == 1 else None))
    ours, *paper = tables.blocks(one.table, f"{one.title}: mean and spread over seeds")
    parts = [el("h3", None, "Results")]
    if figures:
        parts.append(el("div", {"class": "charts"}, *figures))
    parts += [grid(block.caption, block.header, block.lines) for block in (ours, *paper)]
    parts.append(notes(one.table.notes))
    return join(*parts)


def _shown(one: Group) -> list[Row]:
    """The rows that charts have room for: the first, and of the others the best."""
    if len(one.rows) <= charts.LINES:
        return one.rows
    metric = findings.metric_of(one)
    ranked = sorted(range(1, len(one.rows)), key=lambda at: findings.rank(one.rows[at], metric))
    return [one.rows[at] for at in sorted([0, *ranked[: charts.LINES - 1]])]


def _values(row: Row, metric: str) -> list[float]:
    return list(row.figures[f"{metric}_values"].values())


def _curves(one: Group) -> Markup:
    rows, broken = list(_shown(one)), list[str]()
    found = curves.curves(rows, broken=broken)
    if not found:
        return notes(broken)
    caption = {"train/loss": "Training loss by step", "val/loss": "Validation loss by step"}
    figures = [
        charts.lines(name, caption.get(name, f"{name.partition('/')[2]} in validation by step"), lines, "step")
        for name, lines in found.items()
    ]
    return join(_charted("Learning curves", one, rows, figures), notes(broken))


def _charted(heading: str, one: Group, rows: Sequence[Row], figures: Sequence[Markup]) -> Markup:
    labels = [row.label for row in rows]
    more = len(one.rows) - len(rows)
    return join(
        el("h3", None, heading),
        charts.legend(labels) if len(labels) > 1 else None,
        el("div", {"class": "charts"}, *figures),
        el("p", {"class": "aside"}, f"Of the first row and the best others; {more} more are in the tables.")
        if more
        else None,
    )


def _classes(one: Group) -> Markup:
    families: dict[str, list[str]] = {}
    for metric in one.section.metrics:
        family, slash, _ = metric.partition("/")
        if slash:
            families.setdefault(family, []).append(metric)
    if not families:
        return Markup()
    rows = _shown(one)
    header = ["class", *(row.label for row in rows)]
    parts: list[Markup] = [el("h3", None, "Per class")]
    for family, metrics in families.items():
        lines = [[metric.partition("/")[2], *(_in_class(row.figures, metric) for row in rows)] for metric in metrics]
        parts.append(grid(f"{one.title}: {family} of each class (%), and the difference as above", header, lines))
    return join(*parts)


def _in_class(row: dict[str, Any], metric: str) -> str:
    mean, std, difference = (row.get(f"{metric}{ending}") for ending in ("", "_std", "_difference"))
    if mean is None:
        return MISSING
    text = mean_and_std(mean, std, 1)
    return text if difference is None else f"{text} ({difference:+.1f})"


def _dilation(one: Group) -> Markup:
    parts: list[Markup] = []
    broken: list[str] = []
    for row in one.rows:
        for record in row.records:
            try:
                found = measured.dilation(record.folder)
            except ConfigError as error:
                broken.append(str(error))
                continue
            if found is not None:
                parts.append(grid(f"{row.label}, {record.folder}: {found.caption}", found.header, found.lines))
    if not parts and not broken:
        return Markup()
    said = "Mean distance between adjacent sampling points of a filter, pixels of the layer's own map; ± over filters."
    return join(el("h3", None, "Effective dilation"), el("p", None, said), *parts, notes(broken))


def _robustness(one: Group) -> Markup:
    kinds = {"rotation": ("under rotation", "angle, degrees"), "scale": ("under scaling", "factor")}
    figures: list[Markup] = []
    broken: list[str] = []
    rows = [row for row in _shown(one)]
    for kind, (words, x_label) in kinds.items():
        lines: list[Curve | None] = []
        metrics: list[str] = []
        for row in rows:
            courses = []
            for record in row.records:
                try:
                    found = measured.robustness(record.folder, kind)
                except ConfigError as error:
                    broken.append(str(error))
                    continue
                if found is not None:
                    metrics.append(found[0])
                    courses.append(found[1])
            lines.append(curves.envelope(row.label, courses, 1000))
        if any(lines):
            metric = ", ".join(dict.fromkeys(metrics))
            figures.append(charts.lines(f"{metric} {words}", f"{metric} (%) {words}", lines, x_label))
    if not figures and not broken:
        return Markup()
    return join(_charted("Robustness", one, rows, figures), notes(broken))


def _costs(one: Group) -> Markup:
    header = [*_swept(one), "parameters", "MACs (M)", "seconds of training", "images/s", "peak memory (MiB)"]
    lines: list[list[Child]] = []
    for row in one.rows:
        model, cost = ([record.results[section] for record in row.records] for section in ("model", "cost"))
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
    return join(el("h3", None, "Costs"), grid(f"{one.title}: costs, means over the runs of a row", header, lines))


def _swept(one: Group) -> list[str]:
    return [name.rpartition(".")[2] for name in one.section.swept] or ["setting"]


def _mean(sections: Sequence[dict[str, Any]], key: str, factor: float, form: str) -> str:
    values = [section[key] * factor for section in sections if section.get(key) is not None]
    return f"{statistics.fmean(values):{form}}" if values else MISSING


def _pictures(one: Group, album: Album) -> Markup:
    parts: list[Markup] = []
    left_out: list[str] = []
    runs_shown = [(row, row.records[0]) for row in _shown(one) if row.records]
    for folder in ("pictures", "figures"):
        found: dict[str, list[tuple[Row, Path]]] = {}
        for row, record in runs_shown:
            for path in (record.folder / folder).glob("*.png"):
                found.setdefault(path.name, []).append((row, path))
        names = sorted(found, key=lambda name: (len(name), name))
        for name in names[:_PICTURES_OF_A_RUN]:
            images = [_picture(row, path, album, left_out) for row, path in found[name]]
            if any(images):
                heading = el("h4", None, f"{folder}/{name}")
                parts.append(join(heading, el("div", {"class": "album"}, *images)))
        left_out += [f"{folder}/{name} of every run" for name in names[_PICTURES_OF_A_RUN:]]
    if not parts and not left_out:
        return Markup()
    said = "Of the first seed of each row, made smaller."
    shortened = [*left_out[:_LEFT_OUT], *([f"and {len(left_out) - _LEFT_OUT} more"] if left_out[_LEFT_OUT:] else [])]
    out = notes([f"left out: {line}" for line in shortened])
    return join(el("h3", None, "Pictures"), el("p", {"class": "aside"}, said), *parts, out)


def _picture(row: Row, path: Path, album: Album, left_out: list[str]) -> Markup | None:
    """A picture under its row's label; None, and the reason in `left_out`, where it has no place in the page."""
    try:
        picture = album.take(path)
    except ValueError as error:
        left_out.append(f"{path}: {error}")
        return None
    described = f"{path.parent.name}/{path.name} of {row.label}, seed {row.records[0].seed}"
    attributes = {"src": picture.uri, "width": picture.width, "height": picture.height, "alt": described}
    return el("figure", None, el("figcaption", None, row.label), el("img", attributes))


def _runs(one: Group) -> Markup:
    metrics = one.section.shown
    header = ["run", *_swept(one), "seed", *(f"{metric} (%)" for metric in metrics), "seconds"]
    apart = CODE in one.section.swept  # the settings name it then
    header += [] if apart else [CODE]
    lines: list[list[Child]] = []
    repeats = []
    for row in one.rows:
        for record in row.records:
            results = record.results
            scores = [f"{results['metrics'][metric]:.2f}" if metric in results["metrics"] else "" for metric in metrics]
            seconds = results["cost"].get("train_seconds")
            lines.append(
                [
                    record.folder.name,
                    *row.settings,
                    record.seed,
                    *scores,
                    "" if seconds is None else f"{seconds:.1f}",
                    *([] if apart else [layout.label(CODE, record.code)]),
                ]
            )
            repeats.append(_repeat(row, record))
    parts = [el("h3", None, "Runs"), grid(f"{one.title}: each run that the tables count", header, lines)]
    how = (
        "From the folder that the report was called in, with the code and on the kind of machine named beside each "
        "run; its config.yaml holds all settings, the seed too."
    )
    whole = (
        [el("p", None, "All of them, but those that are there already:"), command(one.command)] if one.command else []
    )
    parts.append(
        el(
            "details",
            None,
            el("summary", None, f"Repeat {'this run' if len(repeats) == 1 else f'these {len(repeats)} runs'}"),
            el("p", None, how),
            *whole,
            *repeats,
        )
    )
    return join(*parts)


def _repeat(row: Row, record: Record) -> Markup:
    path = record.folder / "config.yaml"
    words = f"dcnlab fit {shlex.quote(str(path))} id=null"
    text = read_bytes(path, yaml_file.LARGEST).decode("utf-8-sig", "replace")
    return join(
        el("h4", None, f"{record.folder.name}: {row.label}, seed {record.seed}"),
        el("p", {"class": "aside"}, _made(record)),
        command(words),
        el(
            "details",
            None,
            el("summary", None, f"config.yaml of {record.folder.name}"),
            el("pre", {"tabindex": "0"}, el("code", None, text)),
        ),
    )


def _made(record: Record) -> str:
    environment = record.results["environment"]
    device = environment.get("gpu") or environment.get("cpu") or "an unnamed machine"
    count = environment.get("world_size") or 1
    several = f"{count} processes, each on " if count > 1 else ""
    return f"Made with {record.code} and torch {environment.get('torch')} on {several}{device}."
