"""What a report is made of, gathered from run folders."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dcnlab import configfile, resources, runs
from dcnlab.ablations import collect, sweepfile
from dcnlab.ablations import table as tables
from dcnlab.ablations.collect import Record
from dcnlab.ablations.sweepfile import digest
from dcnlab.ablations.table import Table
from dcnlab.config import ConfigError


@dataclass
class Row:
    """A row of a table and the runs behind it."""

    settings: list[str]
    """The swept ones' values."""
    label: str
    """The swept settings, for people."""
    records: list[Record]
    """One run a seed."""


@dataclass
class Group:
    """Runs that one table compares: they share a name and all settings but the swept ones and the seed."""

    name: str
    title: str
    """The name, numbered where runs of it are of several settings."""
    apart: dict[str, str]
    """The settings that tell it from other runs of the name; empty where there are no others."""
    table: Table
    rows: list[Row]
    command: str | None
    """What repeats all of it, where that is one command."""

    @property
    def records(self) -> list[Record]:
        """The runs of all rows."""
        return [record for row in self.rows for record in row.records]


@dataclass
class Unfinished:
    """A run without a final score."""

    folder: Path
    status: str
    """failed | interrupted | unfinished, which is at work still or was killed."""
    settings: str
    reason: str
    resumable: bool


@dataclass
class Report:
    """All of it."""

    root: Path
    groups: list[Group]
    unfinished: list[Unfinished]
    notes: list[str] = field(default_factory=list)

    @property
    def records(self) -> list[Record]:
        """Every run that a table counts."""
        return [record for group in self.groups for record in group.records]


def report(root: Path) -> Report:
    """Gather the runs below a folder.

    Raises:
        ConfigError: there is no such folder, or no run in it.
    """
    if not root.is_dir():
        raise ConfigError(f"{root}: no such folder")
    found, notes = collect.records([root])
    finished = [record for record in found if record.results["status"] == "finished"]
    unfinished = _unfinished(root, found)
    if not finished and not unfinished:
        raise ConfigError(f"{root}: no runs in it" + (f" that can be read; {notes[0]}" if notes else ""))
    groups: list[Group] = []
    names: dict[str, list[Record]] = {}
    for record in finished:
        names.setdefault(record.folder.parent.name, []).append(record)
    for name, records in names.items():
        kinds: dict[str, list[Record]] = {}
        for record in records:
            kinds.setdefault(digest(record.rest), []).append(record)
        if len(kinds) > 1:
            notes.append(f"{name}: the runs are of {len(kinds)} settings, which one table cannot mix; each has its own")
        for number, kind in enumerate(kinds.values(), 1):
            title = f"{name} ({number} of {len(kinds)})" if len(kinds) > 1 else name
            groups.append(_group(name, title, _apart(kind[0], [other[0] for other in kinds.values()]), kind))
    return Report(root, groups, unfinished, notes)


def _apart(one: Record, all_of_them: Sequence[Record]) -> dict[str, str]:
    """The settings of a run that not all have."""
    keys = dict.fromkeys(key for record in all_of_them for key in record.rest)
    differing = [key for key in keys if any(record.rest.get(key) != one.rest.get(key) for record in all_of_them)]
    return {key: _plain(one.rest.get(key)) for key in differing}


def _group(name: str, title: str, apart: dict[str, str], records: list[Record]) -> Group:
    table, command = _table(name, records)
    rows = [_row(row, table.swept) for row in table.rows]
    keys = [_key(row, table.swept) for row in table.rows]
    for parameters, record in collect.of_name(name, records).lines:
        key = _key(parameters, table.swept)
        if record is not None and key in keys:
            rows[keys.index(key)].records.append(record)
    return Group(name, title, apart, table, rows, command)


def _table(name: str, records: list[Record]) -> tuple[Table, str | None]:
    """The table of runs of one kind: as the sweep of that name, missing trials included, where they are its runs."""
    folders = [record.folder for record in records]
    if name in resources.names("sweeps"):
        overrides = _overrides(name, records[0])
        if overrides is not None:
            homes = {folder.parent.parent for folder in folders}
            where = ["--out", str(homes.pop())] if len(homes) == 1 else []
            return tables.assemble(name, folders, overrides), shlex.join(["dcnlab", "sweep", name, *overrides, *where])
    return tables.summarise(name, collect.of_name(name, records)), None


def _overrides(name: str, record: Record) -> list[str] | None:
    """The key=value under which a packaged sweep's trials are runs such as this one; None where it is no trial."""
    sweep = sweepfile.read(name)
    root = record.settings.get("data.root")
    overrides = [f"data.root={root}"] if root is not None else []
    try:
        for _ in range(2):
            akin = [
                trial
                for trial in sweepfile.trials(sweep, overrides)
                if trial.parameters == record.results["parameters"]
            ]
            if not akin:
                return None
            meant = configfile.settings(akin[0].config)
            differing = [key for key, value in record.settings.items() if meant.get(key) != value]
            if not differing:
                return overrides
            overrides += [f"{key}={_yaml(record.settings[key])}" for key in differing]
    except ConfigError:
        return None
    return None


def _yaml(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _key(row: dict[str, Any], swept: Sequence[str]) -> str:
    return json.dumps([row.get(name) for name in swept], default=list)


def _row(row: dict[str, Any], swept: Sequence[str]) -> Row:
    values = [_plain(row.get(name)) for name in swept]
    named = [f"{name.rpartition('.')[2]} {value}" for name, value in zip(swept, values, strict=True)]
    return Row(values or ["all seeds"], ", ".join(named) or "all seeds", [])


def _plain(value: Any) -> str:
    return "not set" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _unfinished(root: Path, found: Sequence[Record]) -> list[Unfinished]:
    """Runs without a score: failed, interrupted, still at work, killed, or not even begun."""
    results = {record.folder: record for record in found}
    folders = {path.parent for path in root.glob("**/parameters.json") if "wandb" not in path.relative_to(root).parts}
    broken = []
    for folder in sorted(folders | set(runs.discover([root]))):
        record = results.get(folder)
        if record is None and (folder / "results.json").exists():
            continue  # of those that cannot be read, the notes tell
        if record is not None and record.results["status"] == "finished":
            continue
        status = "unfinished" if record is None else record.results["status"]
        parameters = _parameters(folder) if record is None else record.results["parameters"]
        reason = "" if record is None else str(record.results.get("reason") or "")
        if not reason and status == "interrupted":
            reason = "stopped from outside"
        if not reason:
            reason = f"no results: at work still, or killed. {_last_line(folder / 'log.txt')}".strip()
        settings = ", ".join(f"{key} {_plain(value)}" for key, value in parameters.items())
        resumable = (folder / runs.CHECKPOINT).is_file() and (folder / "config.yaml").is_file()
        broken.append(Unfinished(folder, status, settings, reason, resumable))
    return broken


def _parameters(folder: Path) -> dict[str, Any]:
    try:
        return dict(configfile.flatten(configfile.read_json(folder / "parameters.json")))
    except ConfigError:
        return {}


def _last_line(log: Path) -> str:
    if not log.is_file():
        return ""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f"Its log ends with: {lines[-1].strip()}" if lines else ""
