"""Runs gathered into the rows of a table: those of a sweep's trials, or of one name."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dcnlab.ablations.sweeps import sweep_file
from dcnlab.ablations.sweeps.sweep_file import Sweep, Trial, digest
from dcnlab.ablations.tables.run_record import Record, differences, records
from dcnlab.config import identity, packaged
from dcnlab.io.errors import ConfigError

__all__ = ["CODE", "Collection", "Record", "Row", "newest", "of_name", "of_sweep", "records", "tell_apart"]

CODE = "code"
"""The column that a table has where its runs are of different code."""

_KIND = ("task", "data.name")
"""Settings in which no two runs that anybody would compare differ."""


@dataclass(frozen=True)
class Row:
    """One row of a table and the runs behind it."""

    parameters: dict[str, Any]
    """What the row is of."""
    records: list[Record]
    """One a seed."""
    wanted: int
    """How many were asked for."""
    settings: dict[str, Any]
    """What its runs compute, or would; of the seeds, one's."""


@dataclass
class Collection:
    """What a table is made of."""

    swept: list[str]
    """Which parameters tell the rows apart."""
    rows: list[Row]
    notes: list[str] = field(default_factory=list)
    """What the reader of the table should know about it."""
    ranked: bool = False
    """Whether the rows have no order of their own, as a random search's."""

    @property
    def lines(self) -> list[tuple[dict[str, Any], Record | None]]:
        """One for each run, with its row's parameters; a row without any has one."""
        return [(row.parameters, record) for row in self.rows for record in (*row.records, *[None] * (not row.records))]

    @property
    def used(self) -> list[Record]:
        """The runs of all rows."""
        return [record for row in self.rows for record in row.records]


def of_sweep(
    sweep: Sweep, found: Sequence[Record], overrides: Sequence[str] = (), any_code: bool = False
) -> Collection:
    """The runs of a sweep's trials.

    Runs of the very settings that the sweep file and the overrides mean come first. Where there are none, runs of the
    same parameters under one other set of settings are taken, with a note that names the difference. Of a random
    search, whose points a server may have drawn, the trials are those that were run.

    Args:
        sweep: the file.
        found: runs to choose from.
        overrides: the key=value that the sweep was run with.
        any_code: whether runs of different code share rows.

    Raises:
        ConfigError: no run fits, or those that do differ in their settings.
    """
    drawn = sweep.method == "random"
    trials = _trials_of_runs(sweep, found, overrides) if drawn else sweep_file.trials(sweep, overrides)
    # Values that are mappings set several keys each.
    names = dict.fromkeys(key for trial in trials for key in trial.parameters)
    swept = [key for key in names if any(f"{key}.".startswith(f"{name}.") for name in sweep.swept)]
    collection = Collection([key for key in swept if key != "seed"], [], ranked=drawn)
    best = newest(_of_trials(collection, sweep, trials, found), collection.notes, any_code)
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(_key(trial.parameters, collection.swept), []).append(trial)
    for members in groups.values():
        known = {digest(trial.parameters) for trial in members}
        own = [record for record in best if digest(record.results["parameters"]) in known]
        parameters = {name: members[0].parameters.get(name) for name in collection.swept}
        settings = own[0].settings if own else identity.settings(members[0].config)
        collection.rows.append(Row(parameters, own, max(len(members), _seeds(own)), settings))
    if drawn:
        collection.notes.append(_drawn(sweep, len(trials), len(best)))
    tell_apart(collection, any_code)
    return collection


def of_name(name: str, found: Sequence[Record], any_code: bool = False) -> Collection:
    """The runs in folders called `name`, by the parameters that they say were set.

    Raises:
        ConfigError: there are none, or they differ in settings that no sweep set.
    """
    chosen = [record for record in found if record.name == name]
    if not chosen:
        known = sorted({record.name for record in found})
        raise ConfigError(f"{name} is neither a sweep nor the name of runs; there are: {', '.join(known) or 'no runs'}")
    _refuse_mixture(chosen)
    names = list(dict.fromkeys(key for record in chosen for key in record.results["parameters"]))
    collection = Collection([key for key in names if key != "seed"], [])
    groups: dict[str, list[Record]] = {}
    for record in sorted(chosen, key=lambda record: record.seed):
        groups.setdefault(_key(record.results["parameters"], collection.swept), []).append(record)
    best = {id(record) for record in newest(chosen, collection.notes, any_code)}
    for members in groups.values():
        parameters = {key: members[0].results["parameters"].get(key) for key in collection.swept}
        own = [record for record in members if id(record) in best]
        collection.rows.append(Row(parameters, own, _seeds(members), members[0].settings))
    collection.rows.sort(key=lambda row: [_order(row.parameters[key]) for key in collection.swept])
    tell_apart(collection, any_code)
    return collection


def newest(
    chosen: Sequence[Record],
    notes: list[str],
    any_code: bool,
    same: Callable[[Record], Any] = lambda record: [record.results["parameters"], record.seed],
) -> list[Record]:
    """One finished run of each kind and code: the newest, with a note where there were more.

    Args:
        chosen: runs.
        notes: takes what there is to say.
        any_code: whether runs that differ in code alone are the same.
        same: what two runs of one kind have in common.
    """
    best: dict[str, Record] = {}
    for record in sorted(filter(lambda record: record.finished, chosen), key=lambda record: record.written):
        key = digest([same(record), None if any_code else record.code])
        if key in best:
            notes.append(f"of two runs of the same, {record.folder} counts and {best[key].folder} does not")
        best[key] = record
    statuses = Counter(record.results["status"] for record in chosen if not record.finished)
    for status, count in statuses.items():
        notes.append(f"{count} {'run' if count == 1 else 'runs'} {status} and not counted")
    return list(best.values())


def tell_apart(collection: Collection, any_code: bool = False) -> None:
    """Give runs of different code rows of their own, or, where `any_code`, say that they share theirs.

    Differences of what code ran on are noted alone: they alter costs more than scores.
    """
    used = collection.used
    codes = Counter(record.code for record in used)
    if len(codes) > 1:
        shown = ", ".join(f"{code} ({count})" for code, count in codes.items())
        how = "joined, as asked" if any_code else "told apart in the column code; --any-code joins them"
        collection.notes.append(f"the runs are of different code: {shown}; {how}")
        if not any_code:
            collection.swept = [*collection.swept, CODE]
            collection.rows = [one for row in collection.rows for one in _by_code(row, list(codes))]
    dirty = [code for code, count in codes.items() if code.endswith("-dirty") and count > 1]
    if dirty:
        collection.notes.append(
            f"{', '.join(dirty)} is code that no commit holds: its runs may differ among themselves"
        )
    for key in ("torch", "gpu"):
        values = Counter(str(record.results["environment"].get(key)) for record in used)
        if len(values) > 1:
            counted = ", ".join(f"{value} ({count})" for value, count in values.items())
            collection.notes.append(f"the runs were not made alike: {key} is {counted}")


def _by_code(row: Row, codes: Sequence[str]) -> list[Row]:
    parts = [(code, [record for record in row.records if record.code == code]) for code in codes]
    split = [replace(row, parameters={**row.parameters, CODE: code}, records=own) for code, own in parts if own]
    return split or [replace(row, parameters={**row.parameters, CODE: None})]


def _seeds(found: Sequence[Record]) -> int:
    """How many different ones there are; runs of two codes share theirs."""
    return len({record.seed for record in found})


def _key(parameters: dict[str, Any], swept: Sequence[str]) -> str:
    return json.dumps([parameters.get(name) for name in swept], default=list)


def _order(value: Any) -> tuple[int, float, str]:
    return (0, value, "") if isinstance(value, int | float) else (1, 0.0, str(value))


def _of_trials(
    collection: Collection, sweep: Sweep, trials: Sequence[Trial], found: Sequence[Record]
) -> Sequence[Record]:
    """The runs of the trials, or else those of the same parameters."""
    ids = {trial.id for trial in trials}
    keyed = {digest(trial.parameters): trial for trial in trials}
    akin = [record for record in found if digest(record.results["parameters"]) in keyed]
    chosen = [record for record in akin if record.id in ids]
    # Sweeps that lie side by side often set the same parameters: a run of another one counts where it is this one's
    # trial too, and is otherwise none of this table's business.
    others = {*packaged.names("sweeps")} - {sweep.name}
    akin = [record for record in akin if record.id in ids or record.name not in others]
    if chosen:
        _note_others(collection, chosen[0], [record for record in akin if record.id not in ids])
        return chosen
    if not akin:
        raise ConfigError(f"no run of {sweep.path} found; make them with: dcnlab sweep {shlex.quote(str(sweep.path))}")
    _refuse_mixture(akin)
    meant = identity.settings(keyed[digest(akin[0].results["parameters"])].config)
    said = differences(akin[0].settings, "in the runs", meant, "in the file")
    collection.notes.append(f"the settings are not those of {sweep.path}: {said}")
    return akin


def _trials_of_runs(sweep: Sweep, found: Sequence[Record], overrides: Sequence[str]) -> list[Trial]:
    """The points of a random search that were run, each as the trial that it is of this file."""
    points: dict[str, dict[str, Any]] = {}
    for record in found:
        parameters = record.results["parameters"]
        known = [any(f"{key}.".startswith(f"{name}.") for name in sweep.parameters) for key in parameters]
        if all(known) and all(any(f"{key}.".startswith(f"{n}.") for key in parameters) for n in sweep.parameters):
            points[digest(parameters)] = parameters
    trials = []
    for parameters in points.values():
        with contextlib.suppress(ConfigError):  # a run of another experiment, whose settings this one cannot have
            trials.append(sweep_file.trial(sweep, parameters, overrides))
    ids = {record.id for record in found}
    return [trial for trial in trials if trial.id in ids] or trials


def _drawn(sweep: Sweep, trials: int, finished: int) -> str:
    if sweep.run_cap is None:
        return f"random search without run_cap: {finished} trials are finished, best first"
    if finished < sweep.run_cap:
        return f"random search: {finished} of {sweep.run_cap} trials are finished, best first; the others are missing"
    return f"random search: all {trials} trials, best first"


def _note_others(collection: Collection, chosen: Record, others: Sequence[Record]) -> None:
    """Say what else has the parameters of the table's runs; of another task or data set it is none of its business."""
    same = [record for record in others if all(record.settings[key] == chosen.settings[key] for key in _KIND)]
    for other in {digest(record.rest): record for record in same}.values():
        shown = {key: chosen.settings.get(key) for key in other.rest}
        said = differences(other.rest, "there", shown, "in the table")
        collection.notes.append(f"left out: {other.folder} and others like it: {said}")


def _refuse_mixture(found: Sequence[Record]) -> None:
    kinds = {digest(record.rest): record for record in found}
    if len(kinds) > 1:
        one, other = list(kinds.values())[:2]
        said = differences(one.rest, f"in {one.folder}", other.rest, f"in {other.folder}")
        raise ConfigError(
            f"the runs are of {len(kinds)} settings, which one table cannot mix; choose by key=value or by --runs: "
            + said
        )
