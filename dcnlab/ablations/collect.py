"""Finished runs, gathered from run folders and matched with the trials of a sweep."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dcnlab import configfile, runs
from dcnlab.ablations.sweepfile import Sweep, Trial, digest
from dcnlab.config import ConfigError


@dataclass(frozen=True)
class Record:
    """A run folder that holds results."""

    folder: Path
    settings: dict[str, Any]
    """What it computed, as dotted keys of the config."""
    results: dict[str, Any]

    @property
    def id(self) -> str:
        """Equal to the id of the trial that it is a run of, wherever it lies."""
        return digest([self.results["parameters"], configfile.changed(self.settings)])[:12]

    @property
    def rest(self) -> dict[str, Any]:
        """The settings that rows of one table must share: all but the seed and what the sweep set."""
        varied = {"seed", *self.results["parameters"]}
        return {key: value for key, value in self.settings.items() if key not in varied}


@dataclass
class Collection:
    """What a table is made of: one line per trial, with its run where there is one."""

    swept: list[str]
    lines: list[tuple[dict[str, Any], Record | None]]
    notes: list[str] = field(default_factory=list)
    """What the reader of the table should know about it."""


def records(roots: Sequence[Path]) -> tuple[list[Record], list[str]]:
    """Every run folder below `roots` that holds results, and a note for each that cannot be read.

    Raises:
        ConfigError: one of the roots is not there.
    """
    for root in roots:
        if not root.is_dir():
            raise ConfigError(f"--runs {root}: no such folder")
    found, notes = [], []
    for folder in runs.discover(list(roots)):
        try:
            results = runs.read_results(folder)
            if results is not None:
                found.append(Record(folder, configfile.settings(configfile.load_run(folder)), results))
        except ConfigError as error:
            notes.append(f"left out: {error}")
    return found, notes


def of_sweep(sweep: Sweep, trials: Sequence[Trial], found: Sequence[Record]) -> Collection:
    """The runs of a sweep's trials.

    Runs of the very settings that the sweep file and the overrides mean come first. Where there are none, runs of the
    same parameters under one other set of settings are taken, with a note that names the difference.

    Raises:
        ConfigError: no run fits, or those that do differ in their settings.
    """
    # Values that are mappings set several keys each.
    names = dict.fromkeys(key for trial in trials for key in trial.parameters)
    swept = [key for key in names if any(f"{key}.".startswith(f"{name}.") for name in sweep.swept)]
    collection = Collection([key for key in swept if key != "seed"], [])
    ids = {trial.id: trial for trial in trials}
    keyed = {digest(trial.parameters): trial for trial in trials}
    akin = [record for record in found if digest(record.results["parameters"]) in keyed]
    chosen = [record for record in akin if record.id in ids]
    if chosen:
        _note_others(collection, chosen[0], [record for record in akin if record.id not in ids])
    elif akin:
        _refuse_mixture(akin)
        chosen = akin
        meant = configfile.settings(keyed[digest(akin[0].results["parameters"])].config)
        differences = _differences(akin[0].settings, "in the runs", meant, "in the file")
        collection.notes.append(f"the settings are not those of {sweep.path}: {differences}")
    else:
        raise ConfigError(f"no run of {sweep.path} found; make them with: dcnlab sweep {sweep.path}")
    best = _one_each(collection, chosen)
    for trial in trials:
        of_it: list[Record | None] = [record for record in best if record.results["parameters"] == trial.parameters]
        collection.lines += [(trial.parameters, record) for record in of_it or [None]]
    _note_code(collection)
    return collection


def of_name(name: str, found: Sequence[Record]) -> Collection:
    """The runs in folders called `name`, by the parameters that they say were set.

    Raises:
        ConfigError: there are none, or they differ in settings that no sweep set.
    """
    chosen = [record for record in found if record.folder.parent.name == name]
    if not chosen:
        known = sorted({record.folder.parent.name for record in found})
        raise ConfigError(f"{name} is neither a sweep nor the name of runs; there are: {', '.join(known) or 'no runs'}")
    _refuse_mixture(chosen)
    names = list(dict.fromkeys(key for record in chosen for key in record.results["parameters"]))
    collection = Collection([key for key in names if key != "seed"], [])
    for record in _one_each(collection, chosen):
        collection.lines.append(({**record.results["parameters"], "seed": record.results["seed"]}, record))
    collection.lines.sort(key=lambda line: [_order(line[0].get(key)) for key in [*collection.swept, "seed"]])
    _note_code(collection)
    return collection


def _order(value: Any) -> tuple[int, float, str]:
    return (0, value, "") if isinstance(value, int | float) else (1, 0.0, str(value))


def _one_each(collection: Collection, chosen: Sequence[Record]) -> list[Record]:
    """One finished run for each set of parameters and seed: the newest, with a note where there were more."""
    best: dict[str, Record] = {}
    finished = [record for record in chosen if record.results["status"] == "finished"]
    for record in sorted(finished, key=lambda record: (record.folder / "results.json").stat().st_mtime):
        key = digest([record.results["parameters"], record.results["seed"]])
        if key in best:
            collection.notes.append(f"of two runs of the same, {record.folder} counts and {best[key].folder} does not")
        best[key] = record
    for status, count in Counter(record.results["status"] for record in chosen if record not in finished).items():
        collection.notes.append(f"{count} {'run' if count == 1 else 'runs'} {status} and not counted")
    return list(best.values())


def _note_others(collection: Collection, chosen: Record, others: Sequence[Record]) -> None:
    for other in {digest(record.rest): record for record in others}.values():
        shown = {key: chosen.settings.get(key) for key in other.rest}
        differences = _differences(other.rest, "there", shown, "in the table")
        collection.notes.append(f"left out: {other.folder} and others like it: {differences}")


def _refuse_mixture(records: Sequence[Record]) -> None:
    kinds = {digest(record.rest): record for record in records}
    if len(kinds) > 1:
        one, other = list(kinds.values())[:2]
        differences = _differences(one.rest, f"in {one.folder}", other.rest, f"in {other.folder}")
        raise ConfigError(
            f"the runs are of {len(kinds)} settings, which one table cannot mix; choose by key=value or by --runs: "
            + differences
        )


def _differences(one: dict[str, Any], here: str, other: dict[str, Any], there: str) -> str:
    keys = [key for key in {**one, **other} if one.get(key) != other.get(key)]
    return ", ".join(f"{key} is {one.get(key)} {here} and {other.get(key)} {there}" for key in keys)


def _note_code(collection: Collection) -> None:
    used = [record for _, record in collection.lines if record is not None]
    for key in ("git", "dcnlab", "torch"):
        values = Counter(str(record.results["environment"].get(key)) for record in used)
        if len(values) > 1:
            shown = ", ".join(f"{value} ({count})" for value, count in values.items())
            collection.notes.append(f"the runs are of different code: {key} is {shown}")
