"""What the report says about the runs of one table."""

from __future__ import annotations

import json
import shlex
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dcnlab.ablations import table as tables
from dcnlab.ablations.collect import Record
from dcnlab.ablations.report import charts, gather
from dcnlab.ablations.report.findings import headlines
from dcnlab.ablations.report.gather import Curve, Group, Row
from dcnlab.ablations.report.grid import grid
from dcnlab.ablations.report.markup import Child, Markup, el, join
from dcnlab.ablations.report.pictures import Album
from dcnlab.configfile import read_yaml

_METRIC_CHARTS = 3
_PICTURES_OF_A_RUN = 4


def group(one: Group, album: Album) -> Markup:
    """All of one table's runs: results, curves, classes, costs, pictures, and how to repeat them.

    Args:
        one: the group.
        album: of the page's pictures.
    """
    parts = [
        el("p", None, f"Of the runs of this name, those with {one.apart}.") if one.apart else None,
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
    for metric in headlines(one)[:_METRIC_CHARTS]:
        shown = [(row.label, _values(row, metric)) for row in one.rows]
        scored = [(label, values) for label, values in shown if values][: 2 * charts.LINES]
        if len(scored) > 1 or (scored and len(scored[0][1]) > 1):
            caption = f"{metric}: a circle a run, the bar their mean; the dashed line is the mean of the first row"
            figures.append(charts.dots(metric, caption, scored))
    ours, *paper = tables.blocks(one.table, f"{one.title}: mean and spread over seeds")
    parts = [el("h3", None, "Results")]
    if figures:
        parts.append(el("div", {"class": "charts"}, *figures))
    parts += [grid(block.caption, block.header, block.lines) for block in (ours, *paper)]
    parts.append(notes(one.table.notes))
    return join(*parts)


def _values(row: Row, metric: str) -> list[float]:
    return [record.results["metrics"][metric] for record in row.records if metric in record.results["metrics"]]


def _curves(one: Group) -> Markup:
    found = gather.curves(one.rows)
    if not found:
        return Markup()
    caption = {"train/loss": "Training loss by step", "val/loss": "Validation loss by step"}
    figures = [
        charts.lines(name, caption.get(name, f"{name.partition('/')[2]} in validation by step"), curves, "step")
        for name, curves in found.items()
    ]
    return _charted("Learning curves", one.rows, figures)


def _charted(heading: str, rows: Sequence[Row], figures: Sequence[Markup]) -> Markup:
    labels = [row.label for row in rows]
    more = len(labels) - charts.LINES
    return join(
        el("h3", None, heading),
        charts.legend(labels) if len(labels) > 1 else None,
        el("div", {"class": "charts"}, *figures),
        el("p", {"class": "aside"}, f"The charts show the first {charts.LINES} rows; {more} more are in the tables.")
        if more > 0
        else None,
    )


def _classes(one: Group) -> Markup:
    families: dict[str, list[str]] = {}
    for metric in one.table.metrics:
        family, slash, _ = metric.partition("/")
        if slash:
            families.setdefault(family, []).append(metric)
    if not families:
        return Markup()
    rows = list(zip(one.rows, one.table.rows, strict=True))[: charts.LINES]
    header = ["class", *(row.label for row, _ in rows)]
    parts: list[Markup] = [el("h3", None, "Per class")]
    for family, metrics in families.items():
        lines = [[metric.partition("/")[2], *(_in_class(row, metric) for _, row in rows)] for metric in metrics]
        parts.append(
            grid(f"{one.title}: {family} of each class (%), and the difference to the first column", header, lines)
        )
    return join(*parts)


def _in_class(row: dict[str, Any], metric: str) -> str:
    mean, std, difference = (row.get(f"{metric}{ending}") for ending in ("", "_std", "_difference"))
    if mean is None:
        return "missing"
    text = f"{mean:.1f}" if std is None else f"{mean:.1f} ± {std:.1f}"
    return text if difference is None else f"{text} ({difference:+.1f})"


def _dilation(one: Group) -> Markup:
    sizes = ("small", "medium", "large", "background")
    parts: list[Markup] = []
    for row in one.rows:
        for record in row.records:
            found = _read(record.folder / "dilation.json")
            if found is not None:
                lines = [[line["layer"], *(_measured(line[size]) for size in sizes)] for line in found["rows"]]
                parts.append(grid(f"{row.label}, {record.folder}", ["layer", *sizes], lines))
    if not parts:
        return Markup()
    paper = read_yaml(Path(tables.__file__).with_name("published.yaml"))["table2"]
    lines = [[line["layer"], *(f"{line[size][0]} ± {line[size][1]}" for size in sizes)] for line in paper["rows"]]
    parts.append(grid(f"The paper's table 2: {paper['data']}", ["layer", *sizes], lines))
    said = "Mean distance between adjacent sampling points of a filter, pixels of the layer's own map; ± over filters."
    return join(el("h3", None, "Effective dilation"), el("p", None, said), el("div", {"class": "pair"}, *parts))


def _measured(cell: dict[str, Any] | None) -> str:
    if cell is None or cell.get("mean") is None:
        return "–"
    return f"{cell['mean']:.2f}" if cell.get("std") is None else f"{cell['mean']:.2f} ± {cell['std']:.2f}"


def _robustness(one: Group) -> Markup:
    kinds = {"rotation": ("under rotation", "angle, degrees"), "scale": ("under scaling", "factor")}
    figures = []
    for kind, (words, x_label) in kinds.items():
        curves: list[Curve] = []
        metric = ""
        for row in one.rows:
            read = [_read(record.folder / "robustness.json") for record in row.records]
            found = [one_run for one_run in read if one_run is not None and one_run.get(kind)]
            courses = [{float(x): float(y) for x, y in one_run[kind]} for one_run in found]
            curve = gather.envelope(row.label, courses, 1000)
            if curve is not None:
                curves.append(curve)
                metric = found[0]["metric"]
        if curves:
            figures.append(charts.lines(f"{metric} {words}", f"{metric} (%) {words}", curves, x_label))
    return _charted("Robustness", one.rows, figures) if figures else Markup()


def _read(path: Path) -> Any:
    """What a command left beside a run; None where it was not called."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


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
    return [name.rpartition(".")[2] for name in one.table.swept] or ["setting"]


def _mean(sections: Sequence[dict[str, Any]], key: str, factor: float, form: str) -> str:
    values = [section[key] * factor for section in sections if section.get(key) is not None]
    return f"{statistics.fmean(values):{form}}" if values else "missing"


def _pictures(one: Group, album: Album) -> Markup:
    parts: list[Markup] = []
    for row in one.rows:
        for record in row.records[:1]:
            for folder in ("pictures", "figures"):
                paths = sorted((record.folder / folder).glob("*.png"), key=lambda path: (len(path.name), path.name))
                if not paths:
                    continue
                taken, left_out = album.take(paths[:_PICTURES_OF_A_RUN])
                images = [
                    el(
                        "img",
                        {
                            "src": Markup(picture.uri),
                            "width": picture.width,
                            "height": picture.height,
                            "alt": f"{folder[:-1]} {picture.source.stem} of {row.label}, seed {record.results['seed']}",
                            "loading": "lazy",
                        },
                    )
                    for picture in taken
                ]
                said = f"{row.label}, seed {record.results['seed']}: {record.folder / folder}"
                parts.append(el("figure", None, el("figcaption", None, said), el("div", {"class": "album"}, *images)))
                more = len(paths) - _PICTURES_OF_A_RUN
                left_out += [f"{more} more in {record.folder / folder}"] if more > 0 else []
                parts.append(notes([f"left out: {line}" for line in left_out]))
    if not parts:
        return Markup()
    said = "Of the first seed of each row, made smaller."
    return join(el("h3", None, "Pictures"), el("p", {"class": "aside"}, said), *parts)


def _runs(one: Group) -> Markup:
    metrics = headlines(one)
    header = ["run", *_swept(one), "seed", *(f"{metric} (%)" for metric in metrics), "seconds", "code"]
    lines: list[list[Child]] = []
    repeats = []
    for row in one.rows:
        for record in row.records:
            results = record.results
            scores = [f"{results['metrics'][metric]:.2f}" if metric in results["metrics"] else "" for metric in metrics]
            seconds = results["cost"].get("train_seconds")
            code = str(results["environment"].get("git") or results["environment"].get("dcnlab") or "")
            lines.append(
                [
                    record.folder.name,
                    *row.settings,
                    results["seed"],
                    *scores,
                    "" if seconds is None else f"{seconds:.1f}",
                    code[:10] + ("-dirty" if code.endswith("-dirty") else ""),
                ]
            )
            repeats.append(_repeat(row, record))
    parts = [el("h3", None, "Runs"), grid(f"{one.title}: each run that the tables count", header, lines)]
    how = "From the folder that the report was called in. A run's config.yaml holds all its settings, the seed too."
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
    return join(
        el("h4", None, f"{record.folder.name}: {row.label}, seed {record.results['seed']}"),
        command(words),
        el(
            "details",
            None,
            el("summary", None, f"config.yaml of {record.folder.name}"),
            el("pre", {"tabindex": "0"}, el("code", None, path.read_text(encoding="utf-8"))),
        ),
    )
