"""Accuracy of finished classifiers on rotated and scaled test images, over seeds."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dcnlab.ablations.analysis.robustness_file import FILE, METRIC, Curves, read
from dcnlab.ablations.analysis.robustness_table import Robustness, labels_of
from dcnlab.ablations.sweeps import sweep_file
from dcnlab.ablations.tables import run_record, sweep_runs
from dcnlab.config import packaged
from dcnlab.config.overrides import parse_override
from dcnlab.io.atomic import write_whole
from dcnlab.io.errors import ConfigError
from dcnlab.training import run_search

FIGURE = "robustness.png"
"""In --out."""

HERE = ("data.root", "data.workers", "data.batch_size", "trainer.accelerator", "trainer.threads")
"""Keys that say where the data is and what computes; they do not change a run's scores."""


@dataclass
class Group:
    """Runs that differ only in their seed: a line of the figure."""

    settings: dict[str, Any]
    folders: list[Path]
    wanted: int


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
        overrides: key=value that choose the runs of a sweep; those of `HERE` apply to the tests as well.
        say: takes a line for each run that is tested.

    Raises:
        ConfigError: there is no such sweep or run, or a run is not finished or not of a classifier.
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
    labels, base = labels_of([group.settings for group in groups])
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
    The run's own test.rotation and test.magnification are ignored.

    Args:
        folder: the run folder.
        angles: degrees, counter-clockwise.
        scales: factors.
        overrides: key=value upon its config, of `HERE`.
        say: takes a line if anything is tested.

    Returns:
        All values in the file, those of earlier calls included.

    Raises:
        ConfigError: the run is not finished or not of a classifier, or its file cannot be read.
    """
    known = read(folder) or Curves({}, {})
    views = {(angle, 1.0) for angle in angles if angle not in known.rotation}
    views |= {(0.0, scale) for scale in scales if scale not in known.scale}
    if views:
        from dcnlab.ablations.analysis import rotated_views  # imports torch, which known values do not need

        say(f"{folder}: {len(views)} tests")
        top1 = rotated_views.top1(folder, sorted(views), overrides)
        known.rotation |= {angle: top1[angle, scale] for angle, scale in top1 if scale == 1 and angle in angles}
        known.scale |= {scale: top1[angle, scale] for angle, scale in top1 if angle == 0 and scale in scales}
        tree = {
            "schema": 1,
            "metric": METRIC,
            "rotation": [list(pair) for pair in sorted(known.rotation.items())],
            "scale": [list(pair) for pair in sorted(known.scale.items())],
        }
        write_whole(folder / FILE, json.dumps(tree, indent=2, allow_nan=False) + "\n")
    return known


def _groups(
    words: Sequence[str], roots: Sequence[Path], overrides: Sequence[str], here: Sequence[str]
) -> tuple[str, list[Group], list[str]]:
    """Title, groups of runs, and notes."""
    sweeps = [word for word in words if Path(word).suffix in (".yaml", ".yml") or word in packaged.names("sweeps")]
    if not sweeps:
        other = [word for word in overrides if word not in here]
        if other:
            raise ConfigError(f"{other[0]}: of a run's settings, robustness takes {', '.join(HERE)}")
        folders = dict.fromkeys(run_search.find(word) for word in words)
        return "runs", [Group({"run": str(folder)}, [folder], 1) for folder in folders], []
    if len(words) > 1:
        raise ConfigError(f"{' '.join(words)}: robustness takes one sweep file, or run folders")
    sweep = sweep_file.read(sweeps[0])
    records, notes = run_record.records(roots)
    collection = sweep_runs.of_sweep(sweep, records, overrides)
    groups = [Group(row.parameters, [run.folder for run in row.records], row.wanted) for row in collection.rows]
    return sweep.title, groups, [*notes, *collection.notes]
