"""Ablation tables: a row for each setting, mean and spread over seeds, and the paper's own figures beside."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dcnlab import resources, runs
from dcnlab.ablations import collect, rendering, sweepfile
from dcnlab.ablations.collect import Collection
from dcnlab.ablations.rendering import Block
from dcnlab.config import ConfigError

FORMATS = rendering.FORMATS


@dataclass
class Table:
    """A table at full precision."""

    title: str
    swept: list[str]
    metrics: list[str]
    rows: list[dict[str, Any]]
    """The swept parameters; METRIC, METRIC_std, METRIC_difference; seeds, seeds_wanted; params, macs, train_seconds."""
    notes: list[str]


def assemble(name: str, roots: Sequence[Path], overrides: Sequence[str] = ()) -> Table:
    """The table of a sweep, or of the runs of one name.

    Args:
        name: path or packaged name of a sweep file; or the folder name that runs share.
        roots: folders to look for runs in.
        overrides: the key=value that the sweep was run with.

    Raises:
        ConfigError: there is nothing to show, or it must not be mixed.
    """
    found, notes = collect.records(roots)
    is_sweep = Path(name).suffix in (".yaml", ".yml") or name in resources.names("sweeps")
    if is_sweep:
        sweep = sweepfile.read(name)
        collection = collect.of_sweep(sweep, sweepfile.trials(sweep, overrides), found)
        return summarise(sweep.title, collection, notes, sweep.metric)
    if overrides:
        raise ConfigError(f"{overrides[0]}: only a sweep file's table takes key=value")
    return summarise(name, collect.of_name(name, found), notes)


def summarise(title: str, collection: Collection, notes: Sequence[str] = (), metric: str | None = None) -> Table:
    """Means, standard deviations (n - 1) and differences to the first row.

    Args:
        title: of the table.
        collection: one line per trial, with its run where there is one.
        notes: to go before the collection's own.
        metric: the sweep's metric, which comes first.
    """
    metrics = list(dict.fromkeys(key for _, run in collection.lines if run for key in run.results["metrics"]))
    if metric is not None:
        metrics.sort(key=lambda key: key != metric.rpartition("/")[2])
    groups: dict[str, list[tuple[dict[str, Any], Any]]] = {}
    for parameters, run in collection.lines:
        key = json.dumps([parameters.get(name) for name in collection.swept])
        groups.setdefault(key, []).append((parameters, run))
    rows: list[dict[str, Any]] = []
    for lines in groups.values():
        row = {name: lines[0][0].get(name) for name in collection.swept}
        results = [run.results for _, run in lines if run is not None]
        for key in metrics:
            values = [result["metrics"][key] for result in results if key in result["metrics"]]
            row |= _spread(key, values, rows[0].get(key) if rows else None)
        row |= {"seeds": len(results), "seeds_wanted": len(lines)}
        row |= {key: _mean([result["model"].get(key) for result in results]) for key in ("params", "macs")}
        row["train_seconds"] = _mean([result["cost"].get("train_seconds") for result in results])
        rows.append(row)
    return Table(title, collection.swept, metrics, rows, [*notes, *collection.notes])


def _spread(key: str, values: list[float], first: float | None) -> dict[str, float | None]:
    mean = _mean(values)
    return {
        key: mean,
        f"{key}_std": statistics.stdev(values) if len(values) > 1 else None,
        f"{key}_difference": None if mean is None or first is None else mean - first,
    }


def _mean(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    if not present:
        return None
    if all(value == present[0] for value in present):  # parameters stay a whole number
        return present[0]
    return statistics.fmean(present)


def cells(table: Table) -> tuple[list[str], list[list[str]]]:
    """Header and rows as people read them; a row short of seeds is marked, and one without a run says so.

    Metrics that are no headlines are left to csv and json.
    """
    metrics = [metric for metric in table.metrics if runs.is_headline(metric)]
    header = [name.rpartition(".")[2] for name in table.swept]
    for metric in metrics:
        header += [f"{metric} (%)", "difference"]
    header += ["seeds", "parameters", "MACs (M)", "seconds"]
    lines = []
    for row in table.rows:
        line = [_value(row[name]) for name in table.swept]
        for metric in metrics:
            std, difference = row[f"{metric}_std"], row[f"{metric}_difference"]
            mean = "missing" if row[metric] is None else f"{row[metric]:.2f}"
            line += [mean if std is None else f"{mean} ± {std:.2f}", "" if difference is None else f"{difference:+.2f}"]
        short = row["seeds"] < row["seeds_wanted"]
        line.append(f"{row['seeds']} of {row['seeds_wanted']} (!)" if short else str(row["seeds"]))
        line.append("" if row["params"] is None else f"{row['params']:,.0f}")
        line.append("" if row["macs"] is None else f"{row['macs'] / 1e6:.2f}")
        line.append("" if row["train_seconds"] is None else f"{row['train_seconds']:.1f}")
        lines.append(line)
    return header, lines


def _value(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def render(table: Table, form: str) -> str:
    """The table as text, without escape codes; csv and json hold full precision, and nothing of the paper.

    Args:
        table: to show.
        form: markdown, latex, csv or json; `rich` is for `show`.
    """
    return rendering.render(table.rows, blocks(table, ""), form)


def show(table: Table) -> None:
    """Print the table with rich; plain text where stdout is no terminal."""
    rendering.show(blocks(table, table.title))


def blocks(table: Table, caption: str) -> list[Block]:
    """What people read: our table under `caption`, and the paper's where it has one of what the sweep varies."""
    paper = published(table.swept)
    return [Block(caption, *cells(table)), *([Block(*paper)] if paper else [])]


_SYSTEMS = {
    "deeplab_voc": "DeepLab, VOC",
    "deeplab_cityscapes": "DeepLab, Cityscapes",
    "class_aware_rpn": "class-aware RPN",
    "faster_rcnn": "Faster R-CNN",
    "rfcn": "R-FCN",
}
_METRICS = {"miou": "mIoU", "ap50": "AP50", "ap70": "AP70"}


def published(swept: Sequence[str]) -> tuple[str, list[str], list[list[str]]] | None:
    """The paper's table of what a sweep varies: caption, header and rows, with differences to the first; or None."""
    if list(swept) != ["model.deform_layers"]:
        return None
    from dcnlab.configfile import read_yaml

    table = read_yaml(Path(__file__).with_name("published.yaml"))["table1"]
    first = table["rows"][0]
    columns = [(system, metric) for system in _SYSTEMS for metric in first[system]]
    header = ["deform_layers", *(f"{_SYSTEMS[system]}: {_METRICS[metric]}" for system, metric in columns)]
    lines = []
    for row in table["rows"]:
        line = [str(row["layers"])]
        for system, metric in columns:
            value = row[system][metric]
            line.append(f"{value:.1f}" if row is first else f"{value:.1f} ({value - first[system][metric]:+.1f})")
        lines.append(line)
    caption = "For orientation, another data set: the paper's table 1, ResNet-101 on VOC and Cityscapes, percent"
    return caption, header, lines
