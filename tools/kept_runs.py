"""Tables on the kept runs of evidence/: `python tools/kept_runs.py settings | repeats | dilation | robustness`.

settings: what the runs of each name were trained with. repeats: trainings that are kept under two names. dilation: in
how many seeds a layer's filters spread more on large objects than on small ones, and on objects than on background.
robustness: how the advantage of related_work's networks changes as test images are rotated and scaled.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from dcnlab.ablations.tables import run_record
from dcnlab.ablations.tables.run_record import Record
from dcnlab.io import json_file

KEPT = Path(__file__).resolve().parents[1] / "evidence"
SETTINGS = {
    "task": "task",
    "data": "data.name",
    "optimizer": "optim.name",
    "schedule": "optim.schedule",
    "rate": "optim.lr",
    "offsets' rate": "optim.offset_lr_scale",
    "steps": "trainer.max_steps",
    "batch size": "data.batch_size",
}
"""Columns of `settings`, and the key that each shows."""

PLAIN = {
    "model.deform_layers": 0,
    "model.deform_kind": "deformable",
    "model.modulated": False,
    "model.dilation": 1,
    "model.spatial_transformer": False,
}
"""What tells the rows of `robustness` apart, and the plain network's values."""
UNCHANGED = {"rotation": 0.0, "scale": 1.0}


def settings(records: Sequence[Record]) -> str:
    """A row for each name: how many trainings and seeds, the values of `SETTINGS`, and who keeps its test images."""
    lines = []
    for name, runs in itertools.groupby(sorted(records, key=_by_name), key=_by_name):
        members = list(runs)
        seeds = {record.seed for record in members}
        images = sum(record.images is not None for record in members)
        shown = [_values(_shown(record, key) for record in members) for key in SETTINGS.values()]
        lines.append([name, len(members), len(seeds), *shown, images])
    return _table(["runs", "trainings", "seeds", *SETTINGS, "with test images"], lines)


def _by_name(record: Record) -> str:
    return record.name


def _shown(record: Record, key: str) -> Any:
    """The value of a setting; of a training whose length is stated in epochs, these."""
    value = record.settings[key]
    return f"{record.settings['trainer.max_epochs']} epochs" if (key, value) == ("trainer.max_steps", None) else value


def _values(values: Any) -> str:
    return ", ".join(sorted({str(value) for value in values}))


def repeats(records: Sequence[Record]) -> str:
    """A row for each two names that hold trainings of the same seed, parameters and scores."""
    outcomes: dict[str, set[Any]] = {}
    for record in records:
        scores = tuple(sorted(record.results["metrics"].items()))
        outcome = (record.settings["task"], record.seed, record.results["model"]["params"], scores)
        outcomes.setdefault(record.name, set()).add(outcome)
    counted = [(a, b, len(outcomes[a] & outcomes[b])) for a, b in itertools.combinations(sorted(outcomes), 2)]
    lines = [list(line) for line in counted if line[2]]
    return _table(["runs", "runs of another name", "same trainings"], lines) if lines else "None is kept twice."


def dilation(records: Sequence[Record]) -> str:
    """A row for each name and layer: its seeds, and in how many of them its filters spread as the paper says."""
    layers: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for record in records:
        path = record.folder / "dilation.json"
        if path.is_file():
            for row in json_file.load(path)["rows"]:
                layers.setdefault((record.name, row["layer"]), []).append(row)
    lines = [
        [*name, len(rows), _more(rows, "large", "small"), _more(rows, "medium", "background")]
        for name, rows in layers.items()
    ]
    header = ["runs", "layer", "seeds", "seeds with large above small", "seeds with medium above background"]
    return _table(header, lines)


def _more(rows: Sequence[dict[str, Any]], high: str, low: str) -> int:
    return sum(row[high]["mean"] > row[low]["mean"] for row in rows)


def robustness(records: Sequence[Record]) -> str:
    """A row for each network and change of the test images: how far its advantage grows, points, and in which seeds.

    A cell is the mean over seeds of the advantage over the plain network on changed images, less that on unchanged
    ones; then the number of seeds in which it is larger.
    """
    curves: dict[str, dict[int, Any]] = {}
    for record in records:
        path = record.folder / "robustness.json"
        if record.name == "related_work" and path.is_file():
            curves.setdefault(_network(record), {})[record.seed] = json_file.load(path)
    plain = curves.pop("plain")
    blocks = []
    for change, unchanged in UNCHANGED.items():
        lines = []
        for network, seeds in sorted(curves.items()):
            paired = [_growth(seeds[n][change], plain[n][change], unchanged) for n in seeds if n in plain]
            lines.append([network, len(paired), *(_grown([seed[level] for seed in paired]) for level in paired[0])])
        levels = [f"{level:g}" for level, _ in next(iter(plain.values()))[change] if level != unchanged]
        blocks.append(_table([change, "seeds", *levels], lines))
    return "\n\n".join(blocks)


def _network(record: Record) -> str:
    """The settings in which a run differs from the plain network."""
    differing = [key for key, value in PLAIN.items() if record.settings[key] != value]
    return ", ".join(f"{key.rpartition('.')[2]} {record.settings[key]}" for key in differing) or "plain"


def _growth(scores: Sequence[Any], plain: Sequence[Any], unchanged: float) -> dict[float, float]:
    """By level: the advantage there less that on unchanged images."""
    base = dict(plain)
    advantage = {level: score - base[level] for level, score in scores}
    return {level: advantage[level] - advantage[unchanged] for level in advantage if level != unchanged}


def _grown(growths: Sequence[float]) -> str:
    return f"{sum(growths) / len(growths):+.1f} ({sum(growth > 0 for growth in growths)})"


def _table(header: list[str], lines: list[list[Any]]) -> str:
    return tabulate(lines, header, tablefmt="pipe", disable_numparse=True, colalign=["left"] * len(header))


TABLES: dict[str, Callable[[Sequence[Record]], str]] = {
    "settings": settings,
    "repeats": repeats,
    "dilation": dilation,
    "robustness": robustness,
}


def main() -> None:
    """Print the table that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=TABLES)
    records, _ = run_record.records([KEPT])
    print(TABLES[parser.parse_args().table]([record for record in records if record.finished]))


if __name__ == "__main__":
    main()
