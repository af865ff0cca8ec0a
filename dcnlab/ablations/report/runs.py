"""Tables of a report's single runs: their costs, their metrics, and how to repeat each."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dcnlab.ablations.numbers import MISSING, mean_and_std
from dcnlab.ablations.report.contents import Group, Row
from dcnlab.ablations.report.grid import Grid, Value, arrange
from dcnlab.ablations.tables.collect import CODE
from dcnlab.ablations.tables.layout import SETTING
from dcnlab.ablations.tables.row_names import label
from dcnlab.ablations.tables.run_record import Record
from dcnlab.io import yaml_file
from dcnlab.io.files import read_bytes
from dcnlab.metrics.names import spoken


@dataclass(frozen=True)
class Repeat:
    """How to repeat one run."""

    title: str
    name: str
    made_with: str
    command: str
    config: str


def costs(group: Group) -> Grid:
    """A table of parameters, multiply-adds, times and memory: means over the runs of a row."""
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
    return [name.rpartition(".")[2] for name in group.section.swept] if len(group.section.swept) == 1 else [SETTING]


def _mean(parts: Sequence[dict[str, Any]], key: str, factor: float, form: str) -> str:
    values = [part[key] * factor for part in parts if part.get(key) is not None]
    return f"{statistics.fmean(values):{form}}" if values else MISSING


def each_run(group: Group) -> Grid:
    """A table with a line for each run: its settings, seed, metrics and seconds."""
    metrics = group.section.shown
    named = CODE in group.section.swept  # the settings name it then
    header = ["run", *_swept(group), "seed", *(f"{spoken(metric)} (%)" for metric in metrics), "seconds"]
    lines: list[list[Value]] = []
    for row in group.rows:
        for record in row.records:
            scores, seconds = record.results["metrics"], record.results["cost"].get("train_seconds")
            line: list[Value] = [record.folder.name, *row.settings, record.seed]
            line += [mean_and_std(scores.get(metric), missing="") for metric in metrics]
            line.append("" if seconds is None else f"{seconds:.1f}")
            lines.append([*line, *([] if named else [label(CODE, record.code)])])
    return arrange(f"{group.title}: each run that the tables count", [*header, *([] if named else [CODE])], lines)


def how_to_repeat(row: Row, record: Record) -> Repeat:
    """The command that repeats a run, its config, and its versions and device."""
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
    several = f"{count} ranks, each on " if count > 1 else ""
    return f"Made with {record.code} and torch {environment.get('torch')} on {several}{device}."
