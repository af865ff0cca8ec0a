"""The paper's tables 1, 3 and 5, filled from any runs: systems and their rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dcnlab.ablations.sweeps.hashing import digest
from dcnlab.ablations.tables import paper, paper_rows
from dcnlab.ablations.tables.collect import Collection, newest, separate_rows
from dcnlab.ablations.tables.rows import Row
from dcnlab.ablations.tables.run_record import Record
from dcnlab.config import packaged
from dcnlab.io.errors import ConfigError

ROW = {"table1": paper.LAYERS, "table3": "modules", "table5": "network"}
"""Name of the column that names a table's rows."""
_DIFFERENCES = 3


@dataclass
class System:
    """Runs that share all settings but those that the table varies, and the seed."""

    title: str
    collection: Collection


def systems(table: str, records: Sequence[Record], any_code: bool = False) -> tuple[list[System], list[str]]:
    """The systems of one of the paper's tables, and notes on runs that are left out.

    A system has all rows of the paper's table; each row wants as many seeds as the row with the most runs.
    Runs of sweeps over other settings, such as a learning rate, are left out where they fill one row only.

    Args:
        table: table1, table3 or table5.
        records: runs to choose from.
        any_code: whether runs of different code share rows.

    Raises:
        ConfigError: no run belongs to any row.
    """
    rows = paper_rows.labels(table)
    labelled = [(record, paper_rows.label(table, record.settings)) for record in records if _has_place(table, record)]
    placed = [(record, label) for record, label in labelled if label in rows]
    groups: dict[str, list[tuple[Record, paper.Label]]] = {}
    for record, label in placed:
        groups.setdefault(digest(_shared(table, record)), []).append((record, label))
    kept = {key: members for key, members in groups.items() if not _stray(table, members)} or groups
    if not kept:
        raise ConfigError(f"no run of {table} found; make some with: dcnlab sweep {_example(table)}, or see --runs")
    notes = []
    strays = [record for key, members in groups.items() if key not in kept for record, _ in members]
    if strays:
        notes.append(f"left out: {_runs(len(strays))} of other sweeps, such as {strays[0].folder}")
    if len(records) > len(placed):
        notes.append(f"left out: {_runs(len(records) - len(placed))} of no row of {table}")
    named = titles([members[0][0] for members in kept.values()], table)
    filled = [System(title, _collection(table, m, any_code)) for title, m in zip(named, kept.values(), strict=True)]
    return [system for system in filled if system.collection.used] or filled, notes


def _collection(table: str, members: Sequence[tuple[Record, paper.Label]], any_code: bool) -> Collection:
    collection = Collection([ROW[table]], [])
    label = {id(record): name for record, name in members}
    best = newest(
        [record for record, _ in members], collection.notes, any_code, lambda record: [label[id(record)], record.seed]
    )
    pools = members[0][0].settings["model.name"] in paper.POOLING_MODELS
    runs_of = {
        name: [record for record in best if label[id(record)] == name] for name in paper_rows.labels(table, pools)
    }
    wanted = max(len({record.seed for record in runs}) for runs in runs_of.values())
    for name, runs in runs_of.items():
        runs.sort(key=lambda record: record.seed)
        settings = runs[0].settings if runs else paper_rows.settings_of(table, name, members[0][0].settings)
        collection.rows.append(Row({ROW[table]: name}, runs, wanted, settings))
    separate_rows(collection, any_code)
    return collection


def _has_place(table: str, record: Record) -> bool:
    return table != "table5" or record.settings["task"] == "detection"


def _shared(table: str, record: Record) -> dict[str, Any]:
    """The settings that runs of a system share; a dilation of null is replaced by the task's default."""
    shared = record.without(paper.VARIED.get(table, ()))
    return {**shared, paper.DILATION: paper_rows.dilation(record.settings)} if paper.DILATION in shared else shared


def _stray(table: str, members: Sequence[tuple[Record, paper.Label]]) -> bool:
    """Whether runs fill one row only and come from a sweep over other settings."""
    varied = {*paper.VARIED[table], "seed"}
    alone = len({label for _, label in members}) == 1
    return alone and all(not set(record.results["parameters"]) <= varied for record, _ in members)


def titles(firsts: Sequence[Record], table: str) -> list[str]:
    """A title for each system: network, backbone and data, and if two share these, the settings that differ.

    Args:
        firsts: a run of each system.
        table: whose settings may differ within a system.
    """
    short = []
    for record in firsts:
        settings = record.settings
        root = Path(settings["data.root"] or "").name
        data = settings["data.name"] + (f" ({root})" if root.lower() not in ("", settings["data.name"]) else "")
        short.append(f"{settings['model.name']}, {settings['model.backbone.name']}, {data}")
    full = []
    for title, record in zip(short, firsts, strict=True):
        twins = [_shared(table, other) for other, name in zip(firsts, short, strict=True) if name == title]
        keys = [key for key in twins[0] if len({digest(twin.get(key)) for twin in twins}) > 1]
        stated = [f"{key}={_shared(table, record)[key]}" for key in keys[:_DIFFERENCES]]
        more = [f"{len(keys) - _DIFFERENCES} more"] if len(keys) > _DIFFERENCES else []
        full.append(", ".join([title, *stated, *more]))
    return full


def _example(table: str) -> str:
    return next((name for name in packaged.names("sweeps") if name.startswith(table)), "SWEEP.yaml")


def _runs(count: int) -> str:
    return f"{count} {'run' if count == 1 else 'runs'}"
