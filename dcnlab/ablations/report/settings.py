"""Runs of one name by the settings that a table's rows share, and the sweeps that they are trials of."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from dcnlab.ablations.sweeps import sweep_file
from dcnlab.ablations.sweeps.hashing import digest
from dcnlab.ablations.sweeps.trial import Trial, trial_at, trials_of
from dcnlab.ablations.tables.collect import REPEATS
from dcnlab.ablations.tables.row_names import value_text
from dcnlab.ablations.tables.run_record import FOLD, Record
from dcnlab.config import identity, packaged
from dcnlab.io.errors import ConfigError

_COLUMNS = 6
"""Settings in which single fits may differ, at most, to share a table."""


def kinds_of_settings(name: str, records: list[Record]) -> list[tuple[list[str] | None, list[Record]]]:
    """Runs of one name by the settings that a table's rows share.

    Returns:
        With each kind the key=value under which they are trials of the packaged sweep of that name, or None.
    """
    kinds: dict[str, list[Record]] = {}
    for record in records:
        kinds.setdefault(digest(record.rest), []).append(record)
    joined: dict[str, tuple[list[str] | None, list[Record]]] = {}
    for key, kind in kinds.items():
        overrides = _overrides(name, kind[0]) if name in packaged.names("sweeps") else None
        _, members = joined.setdefault(key if overrides is None else shlex.join(overrides), (overrides, []))
        members += kind
    return list(joined.values())


def join_fits(kinds: Sequence[tuple[list[str] | None, list[Record]]]) -> list[tuple[list[str] | None, list[Record]]]:
    """Join the kinds of single fits, which no sweep made, to one of each task and data set.

    The settings in which the fits differ become parameters of theirs, so that their table has a row for each.

    Args:
        kinds: as from `kinds_of_settings`.

    Returns:
        The other kinds as they are, and the joined ones where the first of them stood.
    """
    joined: list[tuple[list[str] | None, list[Record]]] = []
    fits: dict[tuple[Any, ...], list[Record]] = {}
    for overrides, members in kinds:
        if overrides is not None or any(set(record.results["parameters"]) - set(REPEATS) for record in members):
            joined.append((overrides, members))
            continue
        subject = tuple(members[0].settings.get(key) for key in ("task", "data.name", FOLD))
        if subject not in fits:
            joined.append((None, fits.setdefault(subject, [])))
        fits[subject] += members
    return [
        part
        for overrides, members in joined
        for part in ([(overrides, members)] if overrides is not None else _one_table(members))
    ]


def _one_table(members: list[Record]) -> list[tuple[list[str] | None, list[Record]]]:
    """Runs with the settings in which they differ as parameters; a kind for each, where these are too many."""
    keys = list(dict.fromkeys(key for record in members for key in differing_settings(record, members)))
    if not keys:
        return [(None, members)]
    if len(keys) > _COLUMNS:
        kinds: dict[str, list[Record]] = {}
        for record in members:
            kinds.setdefault(digest(record.rest), []).append(record)
        return [(None, kind) for kind in kinds.values()]
    return [(None, [_with_parameters(record, keys) for record in members])]


def _with_parameters(record: Record, keys: Sequence[str]) -> Record:
    """A run as if a sweep had set some of its settings."""
    parameters = {**{key: record.settings.get(key) for key in keys}, **record.results["parameters"]}
    return replace(record, results={**record.results, "parameters": parameters})


def _overrides(name: str, record: Record) -> list[str] | None:
    """The key=value that make a run a trial of a packaged sweep; None if no key=value can, or not for all folds."""
    if record.fold is not None and FOLD not in record.results["parameters"]:
        return None
    sweep = sweep_file.read(name)
    root = record.settings.get("data.root")
    overrides = [f"data.root={root}"] if root is not None else []
    try:
        stated = identity.settings(trial_at(sweep, record.results["parameters"], overrides).config)
        differing = [key for key, value in record.settings.items() if stated.get(key) != value]
        overrides += [f"{key}={_yaml(record.settings[key])}" for key in differing]
        trials: Sequence[Trial]
        if sweep.method == "random":
            trials = [trial_at(sweep, record.results["parameters"], overrides)]
        else:
            trials = trials_of(sweep, overrides)
    except ConfigError:  # its settings are of another kind of experiment
        return None
    return overrides if record.id in {trial.id for trial in trials} else None


def trials_of_other_sweeps(name: str, overrides: list[str], finished: Sequence[Record]) -> list[Record]:
    """Runs of other sweeps that are trials of this sweep too, which does not run them again."""
    sweep = sweep_file.read(name)
    if sweep.method == "random":
        return []
    ids = {trial.id for trial in trials_of(sweep, overrides)}
    return [record for record in finished if record.name != name and record.id in ids]


def differing_settings(record: Record, others: Sequence[Record]) -> dict[str, str]:
    """The settings of a run in which the runs differ."""
    keys = dict.fromkeys(key for other in others for key in other.rest)
    differing = [key for key in keys if any(other.rest.get(key) != record.rest.get(key) for other in others)]
    return {key: value_text(record.rest.get(key), "not set") for key in differing}


def _yaml(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
