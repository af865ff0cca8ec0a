"""Gathers run folders into the groups, tables and failures of a report."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dcnlab.ablations.sweeps import sweep_file
from dcnlab.ablations.sweeps.hashing import digest
from dcnlab.ablations.sweeps.trial import Trial, trial_at, trials_of
from dcnlab.ablations.tables import collect, layout, paper
from dcnlab.ablations.tables import run_record as record
from dcnlab.ablations.tables import table as tables
from dcnlab.ablations.tables.layout import value_text
from dcnlab.ablations.tables.run_record import Record
from dcnlab.ablations.tables.section import Section
from dcnlab.ablations.tables.table import Table
from dcnlab.config import identity, packaged
from dcnlab.config.keys import flatten
from dcnlab.config.load import read_parameters
from dcnlab.io.errors import ConfigError
from dcnlab.io.files import read_tail
from dcnlab.training import run_folder
from dcnlab.training.run_folder import RunFolder


@dataclass
class Row:
    """A row of a table and the runs behind it."""

    figures: dict[str, Any]
    """See `table.Table.rows`."""
    settings: list[str]
    """The swept ones' values."""
    label: str
    """The swept settings, for people."""
    records: list[Record]
    """One run a seed."""


@dataclass
class Group:
    """Runs that are compared with one another: they share a name and all settings but the swept ones and the seed."""

    name: str
    title: str
    """The name, numbered where runs of it are of several settings."""
    apart: dict[str, str]
    """The settings that tell it from other runs of the name; empty where there are no others."""
    table: Table
    """Of one section."""
    rows: list[Row]
    command: str | None
    """What repeats all of it, where that is one command."""

    @property
    def section(self) -> Section:
        """The table's only one."""
        return self.table.sections[0]

    @property
    def records(self) -> list[Record]:
        """The runs of all rows."""
        return [record for row in self.rows for record in row.records]


@dataclass
class Unfinished:
    """A run without a final score."""

    folder: Path
    status: str
    """failed | interrupted | unfinished: still running, or killed."""
    settings: str
    reason: str
    further: str | None
    """The command that resumes it, or starts it again without a checkpoint."""


@dataclass
class Report:
    """All of it."""

    root: Path
    groups: list[Group]
    papers: list[Table]
    """The paper's own tables, of those that the runs fill two rows or more of."""
    unfinished: list[Unfinished]
    notes: list[str] = field(default_factory=list)

    @property
    def records(self) -> list[Record]:
        """Every run that a table counts, once."""
        return list({record.folder: record for group in self.groups for record in group.records}.values())


def report(root: Path, any_code: bool = False) -> Report:
    """Gather the runs below a folder.

    Args:
        root: the folder.
        any_code: whether runs of different code share rows.

    Raises:
        ConfigError: there is no such folder, or no run in it.
    """
    if not root.is_dir():
        raise ConfigError(f"{root}: no such folder")
    found, notes = record.records([root])
    finished = [one for one in found if one.finished]
    unfinished = _unfinished(root, found)
    if not finished and not unfinished:
        raise ConfigError(f"{root}: no runs in it" + (f" that can be read; {notes[0]}" if notes else ""))
    groups: list[Group] = []
    for name in dict.fromkeys(one.name for one in finished):
        kinds = _kinds(name, [one for one in finished if one.name == name])
        if len(kinds) > 1:
            notes.append(f"{name}: the runs are of {len(kinds)} settings, which one table cannot mix; each has its own")
        for number, (overrides, kind) in enumerate(kinds, 1):
            title = f"{name} ({number} of {len(kinds)})" if len(kinds) > 1 else name
            apart = _apart(kind[0], [other[0] for _, other in kinds])
            used = kind if overrides is None else [*kind, *_shared(name, overrides, finished)]
            table, command = _table(name, overrides, used, any_code), _command(name, overrides, kind)
            groups += _groups(name, title, apart, table, command, used)
    return Report(root, groups, _papers(finished, any_code), unfinished, notes)


def _kinds(name: str, found: list[Record]) -> list[tuple[list[str] | None, list[Record]]]:
    """Runs of one name by the settings that a table's rows share.

    Returns:
        With each kind the key=value under which they are trials of the packaged sweep of that name, or None.
    """
    kinds: dict[str, list[Record]] = {}
    for one in found:
        kinds.setdefault(digest(one.rest), []).append(one)
    joined: dict[str, tuple[list[str] | None, list[Record]]] = {}
    for key, kind in kinds.items():
        overrides = _overrides(name, kind[0]) if name in packaged.names("sweeps") else None
        _, members = joined.setdefault(key if overrides is None else shlex.join(overrides), (overrides, []))
        members += kind
    return list(joined.values())


def _overrides(name: str, one: Record) -> list[str] | None:
    """The key=value under which a run is a trial of a packaged sweep; None where it is none."""
    sweep = sweep_file.read(name)
    root = one.settings.get("data.root")
    overrides = [f"data.root={root}"] if root is not None else []
    try:
        meant = identity.settings(trial_at(sweep, one.results["parameters"], overrides).config)
        differing = [key for key, value in one.settings.items() if meant.get(key) != value]
        overrides += [f"{key}={_yaml(one.settings[key])}" for key in differing]
        trials: Sequence[Trial]
        if sweep.method == "random":
            trials = [trial_at(sweep, one.results["parameters"], overrides)]
        else:
            trials = trials_of(sweep, overrides)
    except ConfigError:  # its settings are of another kind of experiment
        return None
    return overrides if one.id in {trial.id for trial in trials} else None


def _shared(name: str, overrides: list[str], finished: Sequence[Record]) -> list[Record]:
    """Runs of other sweeps that are trials of this one too, which runs none twice."""
    sweep = sweep_file.read(name)
    if sweep.method == "random":
        return []
    ids = {trial.id for trial in trials_of(sweep, overrides)}
    return [one for one in finished if one.name != name and one.id in ids]


def _apart(one: Record, all_of_them: Sequence[Record]) -> dict[str, str]:
    """The settings of a run that not all have."""
    keys = dict.fromkeys(key for other in all_of_them for key in other.rest)
    differing = [key for key in keys if any(other.rest.get(key) != one.rest.get(key) for other in all_of_them)]
    return {key: value_text(one.rest.get(key), "not set") for key in differing}


def _table(name: str, overrides: list[str] | None, found: list[Record], any_code: bool) -> Table:
    """The table of runs of one kind: as the sweep of that name, missing trials included, where they are its runs."""
    if overrides is None:
        return tables.summarise(name, collect.of_name(name, found, any_code))
    return tables.of_records(name, found, overrides=overrides, any_code=any_code)


def _command(name: str, overrides: list[str] | None, found: list[Record]) -> str | None:
    """What runs all of a sweep that is missing; None where the runs are of none."""
    if overrides is None:
        return None
    homes = {one.folder.parent.parent for one in found}
    where = ["--out", str(homes.pop())] if len(homes) == 1 else []
    return shlex.join(["dcnlab", "sweep", name, *overrides, *where])


def _groups(
    name: str, title: str, apart: dict[str, str], table: Table, command: str | None, found: list[Record]
) -> list[Group]:
    """One for each part of a table."""
    folders = {str(one.folder): one for one in found}
    groups: list[Group] = []
    for part in table.sections:
        rows = [_row(row, part.swept, folders) for row in part.rows]
        full = f"{title}: {part.title}" if part.title else title
        first = part is table.sections[0]
        own = replace(
            table, sections=[part], notes=table.notes if first else [], orientation=first and table.orientation
        )
        groups.append(Group(name, full, apart, own, rows, command))
    return groups


def _row(figures: dict[str, Any], swept: Sequence[str], folders: dict[str, Record]) -> Row:
    values = [layout.label(name, figures.get(name)) or "not set" for name in swept]
    named = [f"{name.rpartition('.')[2]} {value}" for name, value in zip(swept, values, strict=True)]
    own = sorted((folders[folder] for folder in figures["runs"]), key=lambda one: one.seed)
    return Row(figures, values or ["all seeds"], ", ".join(named) or "all seeds", own)


def _papers(finished: Sequence[Record], any_code: bool) -> list[Table]:
    found = []
    for name in paper.VARIED:
        try:
            table = tables.of_records(name, finished, any_code=any_code)
        except ConfigError:  # no run is of any of its rows
            continue
        sections = [part for part in table.sections if sum(row["seeds"] > 0 for row in part.rows) > 1]
        if sections:
            found.append(replace(table, sections=sections))
    return found


def _yaml(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _unfinished(root: Path, found: Sequence[Record]) -> list[Unfinished]:
    """Runs without a score: failed, interrupted, still running, killed or never started."""
    results = {one.folder: one for one in found}
    folders = {path.parent for path in root.glob("**/parameters.json") if "wandb" not in path.relative_to(root).parts}
    broken = []
    for folder in sorted(folders | set(run_folder.discover([root]))):
        one = results.get(folder)
        if one is None and (folder / "results.json").exists():
            continue  # of those that cannot be read, the notes tell
        if one is not None and one.finished:
            continue
        status = "unfinished" if one is None else one.results["status"]
        parameters = _parameters(folder) if one is None else one.results["parameters"]
        reason = "" if one is None else str(one.results.get("reason") or "")
        if not reason and status == "interrupted":
            reason = "stopped from outside"
        if not reason:
            reason = f"no results: still running, or killed. {_last_line(folder / 'log.txt')}".strip()
        settings = ", ".join(f"{key} {value_text(value, 'not set')}" for key, value in parameters.items())
        broken.append(Unfinished(folder, status, settings, reason, _further(folder)))
    return broken


def _further(folder: Path) -> str | None:
    config = folder / "config.yaml"
    if not config.is_file():
        return None
    if (RunFolder(folder).checkpoint).is_file():
        return shlex.join(["dcnlab", "resume", str(folder)])
    return shlex.join(["dcnlab", "fit", str(config)])


def _parameters(folder: Path) -> dict[str, Any]:
    try:
        return dict(flatten(read_parameters(folder / "parameters.json")))
    except ConfigError:
        return {}


def _last_line(log: Path) -> str:
    try:
        lines = [line for line in read_tail(log) if line.strip()]
    except OSError:
        return ""
    return f"Its log ends with: {lines[-1].strip()}" if lines else ""
