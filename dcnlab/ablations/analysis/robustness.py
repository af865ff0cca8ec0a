"""Accuracy of finished classifiers against how far the test images are turned and magnified, over seeds."""

from __future__ import annotations

import io
import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dcnlab.ablations.sweeps import sweep_file
from dcnlab.ablations.tables import collect, run_record
from dcnlab.ablations.tables.render import Block
from dcnlab.config import packaged
from dcnlab.config.load import read_parameters
from dcnlab.config.overrides import parse_override
from dcnlab.io.atomic import write_whole
from dcnlab.io.errors import ConfigError
from dcnlab.training import run_folder

FILE = "robustness.json"
"""In a run folder: its measured curves; in --out: the rows of the table."""

FIGURE = "robustness.png"
"""In --out."""

HERE = ("data.root", "data.workers", "data.batch_size", "trainer.accelerator", "trainer.threads")
"""Keys that say where the data lie and what computes; they leave the figures of a run as they are."""


_TICKS = 12
"""More amounts than this are not all named on an axis."""


@dataclass
class Curves:
    """Top-1 of one run, percent."""

    rotation: dict[float, float]
    """By degrees, at a magnification of 1."""
    scale: dict[float, float]
    """By factor, without rotation."""


@dataclass
class Group:
    """Runs that differ in their seed alone: a line of the figure."""

    settings: dict[str, Any]
    folders: list[Path]
    wanted: int


@dataclass
class Robustness:
    """Curves at full precision."""

    title: str
    rows: list[dict[str, Any]]
    """The settings; change, rotation or scale; amount, degrees or factor; top1, top1_std, top1_difference to the first
    group's at the same amount; seeds, seeds_wanted."""
    labels: list[str]
    """A short name of each group, in the order of the rows."""
    base: str
    """What the first label stands for, where it does not say it."""
    notes: list[str]


def assemble(
    words: Sequence[str],
    roots: Sequence[Path],
    angles: Sequence[float],
    scales: Sequence[float],
    overrides: Sequence[str] = (),
    say: Callable[[str], None] = lambda line: None,
) -> Robustness:
    """Measure what is missing in the run folders, and gather it.

    Args:
        words: path or packaged name of one sweep file; or run folders.
        roots: folders to look for a sweep's runs in.
        angles: degrees, counter-clockwise.
        scales: factors.
        overrides: key=value; those of a sweep choose its runs. Of `HERE` also where and on what they are tested.
        say: gets a line for each run that is tested.

    Raises:
        ConfigError: no such sweep or run, or one that is not finished or no classifier's.
    """
    if not (angles or scales):
        raise ConfigError("--angles and --scales are both empty; state one of them")
    here = [word for word in overrides if parse_override(word)[0] in HERE]
    title, groups, notes = _groups(words, roots, overrides, here)
    curves: dict[Path, Curves] = {}
    for folder in [folder for group in groups for folder in group.folders]:
        curves[folder] = measure(folder, angles, scales, here, say)
    rows: list[dict[str, Any]] = []
    for change, amounts in (("rotation", angles), ("scale", scales)):
        for amount in amounts:
            first: float | None = None
            for group in groups:
                values = [getattr(curves[folder], change)[amount] for folder in group.folders]
                mean = statistics.fmean(values) if values else None
                rows.append(
                    group.settings
                    | {"change": change, "amount": amount, "top1": mean}
                    | {"top1_std": statistics.stdev(values) if len(values) > 1 else None}
                    | {"top1_difference": None if mean is None or first is None else mean - first}
                    | {"seeds": len(values), "seeds_wanted": group.wanted}
                )
                first = mean if group is groups[0] else first
    labels, base = _labels([group.settings for group in groups])
    return Robustness(title, rows, labels, base, notes)


def measure(
    folder: Path,
    angles: Sequence[float],
    scales: Sequence[float],
    overrides: Sequence[str] = (),
    say: Callable[[str], None] = lambda line: None,
) -> Curves:
    """The curves of a finished classification run, kept in its robustness.json; tests what that file lacks.

    The last checkpoint and each batch of the test split are read once for all tests;
    `dcnlab.data.classification.rotation.turn` says what is done to the images.
    What a run's own test.rotation and test.magnification say plays no part.

    Args:
        folder: the run folder.
        angles: degrees, counter-clockwise.
        scales: factors.
        overrides: key=value upon its config, of `HERE`.
        say: gets a line where there is something to test.

    Returns:
        All that is known by now, which may be more than was asked for.

    Raises:
        ConfigError: the run is not finished, or no classifier's, or its file cannot be read.
    """
    known = read(folder) or Curves({}, {})
    views = {(angle, 1.0) for angle in angles if angle not in known.rotation}
    views |= {(0.0, scale) for scale in scales if scale not in known.scale}
    if views:
        from dcnlab.ablations.analysis import (
            rotated_views as testing,  # with torch, which what is known already does without
        )

        say(f"{folder}: {len(views)} tests")
        top1 = testing.top1(folder, sorted(views), overrides)
        known.rotation |= {angle: top1[angle, scale] for angle, scale in top1 if scale == 1 and angle in angles}
        known.scale |= {scale: top1[angle, scale] for angle, scale in top1 if angle == 0 and scale in scales}
        tree = {
            "schema": 1,
            "metric": "top1",
            "rotation": [list(pair) for pair in sorted(known.rotation.items())],
            "scale": [list(pair) for pair in sorted(known.scale.items())],
        }
        write_whole(folder / FILE, json.dumps(tree, indent=2, allow_nan=False) + "\n")
    return known


def read(folder: Path) -> Curves | None:
    """The curves in a run folder, or None where it has none.

    Raises:
        ConfigError: its file is not what `measure` writes.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    tree = read_parameters(path)
    try:
        if (tree["schema"], tree["metric"]) != (1, "top1"):
            raise ValueError(f"schema {tree['schema']}, metric {tree['metric']}")
        curves = Curves(
            *({float(at): float(percent) for at, percent in tree[change]} for change in ("rotation", "scale"))
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: not what dcnlab robustness writes ({error}); remove it") from error
    return curves


def _groups(
    words: Sequence[str], roots: Sequence[Path], overrides: Sequence[str], here: Sequence[str]
) -> tuple[str, list[Group], list[str]]:
    """Title, the runs that belong together, and notes."""
    sweeps = [word for word in words if Path(word).suffix in (".yaml", ".yml") or word in packaged.names("sweeps")]
    if not sweeps:
        other = [word for word in overrides if word not in here]
        if other:
            raise ConfigError(f"{other[0]}: of a run's settings, robustness takes {', '.join(HERE)}")
        folders = dict.fromkeys(run_folder.find(word) for word in words)
        return "runs", [Group({"run": str(folder)}, [folder], 1) for folder in folders], []
    if len(words) > 1:
        raise ConfigError(f"{' '.join(words)}: robustness takes one sweep file, or run folders")
    sweep = sweep_file.read(sweeps[0])
    found, notes = run_record.records(roots)
    collection = collect.of_sweep(sweep, found, overrides)
    groups = [Group(row.parameters, [run.folder for run in row.records], row.wanted) for row in collection.rows]
    return sweep.title, groups, [*notes, *collection.notes]


def _labels(settings: Sequence[dict[str, Any]]) -> tuple[list[str], str]:
    """What tells each group from the first, and what the first is where it needs more than a word."""

    def said(pairs: dict[str, Any]) -> str:
        return ", ".join(f"{key.rpartition('.')[2]} {json.dumps(value).strip(chr(34))}" for key, value in pairs.items())

    first = settings[0]
    if list(first) == ["run"]:
        return [group["run"] for group in settings], ""
    if len(first) < 2:
        return [said(group) or "all" for group in settings], ""
    return [said({k: v for k, v in group.items() if v != first[k]}) or "base" for group in settings], said(first)


def _lines(found: Robustness, change: str) -> tuple[list[float], list[list[dict[str, Any]]]]:
    """The amounts of a change, and each group's rows at them."""
    rows = [row for row in found.rows if row["change"] == change]
    count = len(found.labels)
    return [row["amount"] for row in rows[::count]], [rows[at::count] for at in range(count)]


def blocks(found: Robustness) -> list[Block]:
    """What people read: a table for the rotations and one for the scales, a row each group."""
    made = []
    for change, what, unit in (("rotation", "rotation of the test images", "°"), ("scale", "their magnification", "x")):
        amounts, lines = _lines(found, change)
        if amounts:
            caption = f"{found.title}: top1 (%) against {what}" + (f"; base: {found.base}" if found.base else "")
            cells = [
                [label + ("" if short is None else f" ({short} seeds!)"), *map(_cell, line)]
                for label, line in zip(found.labels, lines, strict=True)
                for short in [_short(line[0])]
            ]
            made.append(Block(caption, ["", *(f"{amount:g}{unit}" for amount in amounts)], cells))
    return made


def _short(row: dict[str, Any]) -> str | None:
    return f"{row['seeds']} of {row['seeds_wanted']}" if row["seeds"] < row["seeds_wanted"] else None


def _cell(row: dict[str, Any]) -> str:
    if row["top1"] is None:
        return "missing"
    return f"{row['top1']:.1f}" + ("" if row["top1_std"] is None else f" ± {row['top1_std']:.1f}")


def draw(found: Robustness) -> bytes:
    """The curves as a PNG: the mean of a group's seeds, and a band of one standard deviation to either side."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = [
        (change, axis)
        for change, axis in (
            ("rotation", "rotation of the test image (degrees)"),
            ("scale", "magnification of the test image"),
        )
        if _lines(found, change)[0]
    ]
    figure = Figure(figsize=(1 + 4.5 * len(panels), 5.2), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    for at, (change, axis) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), at + 1)
        amounts, lines = _lines(found, change)
        for number, (label, line) in enumerate(zip(found.labels, lines, strict=True)):
            mean = [math.nan if row["top1"] is None else row["top1"] for row in line]
            std = [row["top1_std"] or 0.0 for row in line]
            look: dict[str, Any] = {"color": f"C{number % 10}", "marker": "osD^vP"[number % 6], "markersize": 4}
            axes.plot(amounts, mean, label=label.replace("$", r"\$"), **look)
            low, high = ([m + sign * s for m, s in zip(mean, std, strict=True)] for sign in (-1, 1))
            axes.fill_between(amounts, low, high, color=look["color"], alpha=0.12, linewidth=0)
        if change == "scale":
            axes.set_xscale("log", base=2)
            axes.minorticks_off()
        if len(amounts) <= _TICKS:
            axes.set_xticks(amounts, [f"{amount:g}" for amount in amounts])
        axes.set(xlabel=axis, ylabel="top-1 (%), mean and standard deviation over seeds" if at == 0 else "")
        axes.grid(alpha=0.3)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(3, len(labels)), frameon=False)
    figure.suptitle(found.title.replace("$", r"\$"))
    file = io.BytesIO()
    figure.savefig(file, format="png", pil_kwargs={"optimize": True})
    return file.getvalue()
