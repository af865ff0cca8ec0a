"""The runs of a sweep's trials, gathered into the rows of a table."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Sequence
from typing import Any

from dcnlab.ablations.sweeps.hashing import digest
from dcnlab.ablations.sweeps.sweep_file import Sweep
from dcnlab.ablations.sweeps.trial import Trial, trial_at, trials_of
from dcnlab.ablations.tables.collect import (
    Collection,
    key_of,
    newest,
    refuse_mixture,
    seeds_of,
    separate_rows,
)
from dcnlab.ablations.tables.rows import Row
from dcnlab.ablations.tables.run_record import FOLD, Record, differences, of_all_folds
from dcnlab.config import identity, packaged
from dcnlab.config.identity import REPEATS
from dcnlab.config.keys import ARM
from dcnlab.io.errors import ConfigError

_KIND = ("task", "data.name")
"""Settings that must be equal for two runs to be comparable."""


def of_sweep(
    sweep: Sweep, records: Sequence[Record], overrides: Sequence[str] = (), any_code: bool = False
) -> Collection:
    """The runs of a sweep's trials.

    Runs with exactly the settings of the sweep file and the overrides come first. If there are none, runs of the same
    parameters under one other set of settings are taken, and a note names the difference. A server may have drawn the
    points of a random search, so its trials are those that were run.

    Args:
        sweep: the file.
        records: runs to choose from.
        overrides: the key=value that the sweep was run with.
        any_code: whether runs of different code share rows.

    Raises:
        ConfigError: no run fits, or the runs that fit differ in their settings.
    """
    drawn = sweep.method == "random"
    trials = _trials_of_runs(sweep, records, overrides) if drawn else trials_of(sweep, overrides)
    # Values that are mappings set several keys each.
    names = dict.fromkeys(key for trial in trials for key in trial.parameters)
    swept = [key for key in names if sweep.sets(key, sweep.swept)]
    collection = Collection([key for key in swept if key not in REPEATS], [], ranked=drawn)
    if ARM in sweep.swept:
        collection.of_arms = [key for key in swept if sweep.sets(key, [ARM])]
    best = newest(_of_trials(collection, sweep, trials, records), collection.notes, any_code)
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(key_of(trial.parameters, collection.swept), []).append(trial)
    for members in groups.values():
        known = {digest(trial.parameters) for trial in members}
        counted = [record for record in best if digest(record.results["parameters"]) in known]
        parameters = {name: members[0].parameters.get(name) for name in collection.swept}
        settings = counted[0].settings if counted else identity.settings(members[0].config)
        wanted = {digest({key: value for key, value in trial.parameters.items() if key != FOLD}) for trial in members}
        collection.rows.append(Row(parameters, counted, max(len(wanted), seeds_of(counted)), settings))
    if drawn:
        collection.notes.append(_drawn(sweep, len(trials), len(best)))
    separate_rows(collection, any_code)
    return collection


def _of_trials(
    collection: Collection, sweep: Sweep, trials: Sequence[Trial], records: Sequence[Record]
) -> Sequence[Record]:
    """The runs of the trials, or if there are none, the runs of the same parameters."""
    ids = {trial.id for trial in trials}
    keyed = {digest(trial.parameters): trial for trial in trials}
    candidates = [record for record in records if digest(record.results["parameters"]) in keyed]
    chosen = [record for record in candidates if record.id in ids]
    # Several packaged sweeps set the same parameters. A run of another sweep counts only if it is a trial of this one.
    others = {*packaged.names("sweeps")} - {sweep.name}
    candidates = [record for record in candidates if record.id in ids or record.name not in others]
    if chosen:
        _note_others(collection, chosen[0], [record for record in candidates if record.id not in ids])
        return chosen
    if not candidates:
        name = _typed_name(sweep)
        raise ConfigError(f"no run of {name} found; make them with: dcnlab sweep {shlex.quote(name)}")
    refuse_mixture(candidates)
    stated = of_all_folds(identity.settings(keyed[digest(candidates[0].results["parameters"])].config))
    differing = differences(of_all_folds(candidates[0].settings), "in the runs", stated, "in the file")
    collection.notes.append(f"the settings are not those of {_typed_name(sweep)}: {differing}")
    return candidates


def _typed_name(sweep: Sweep) -> str:
    """What names the sweep on the command line: a packaged one's name, or the path."""
    return sweep.name if packaged.packaged("sweeps", sweep.name) == sweep.path else str(sweep.path)


def _trials_of_runs(sweep: Sweep, records: Sequence[Record], overrides: Sequence[str]) -> list[Trial]:
    """The points of a random search that were run, each as a trial of this file."""
    points: dict[str, dict[str, Any]] = {}
    for record in records:
        parameters = record.results["parameters"]
        known = [sweep.sets(key, sweep.parameters) for key in parameters]
        if all(known) and all(any(sweep.sets(key, [name]) for key in parameters) for name in sweep.parameters):
            points[digest(parameters)] = parameters
    trials = []
    for parameters in points.values():
        with contextlib.suppress(ConfigError):  # a run of another experiment, whose settings this one cannot have
            trials.append(trial_at(sweep, parameters, overrides))
    ids = {record.id for record in records}
    return [trial for trial in trials if trial.id in ids] or trials


def _drawn(sweep: Sweep, trials: int, finished: int) -> str:
    if sweep.run_cap is None:
        return f"random search without run_cap: {finished} trials are finished, best first"
    if finished < sweep.run_cap:
        return f"random search: {finished} of {sweep.run_cap} trials are finished, best first; the others are missing"
    return f"random search: all {trials} trials, best first"


def _note_others(collection: Collection, chosen: Record, others: Sequence[Record]) -> None:
    """Note runs of the same parameters that are left out, if they are of the same task and data set."""
    same = [record for record in others if all(record.settings[key] == chosen.settings[key] for key in _KIND)]
    for other in {digest(record.rest): record for record in same}.values():
        shown = {key: of_all_folds(chosen.settings).get(key) for key in other.rest}
        differing = differences(other.rest, "there", shown, "in the table")
        collection.notes.append(f"left out: {other.folder} and others like it: {differing}")
