"""The paper's tables 1, 3 and 5, filled from any runs: systems and their rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dcnlab.ablations.sweeps.hashing import digest
from dcnlab.ablations.tables import paper, paper_rows
from dcnlab.ablations.tables.collect import Collection, Row, newest, tell_apart
from dcnlab.ablations.tables.run_record import Record
from dcnlab.config import packaged
from dcnlab.io.errors import ConfigError

ROW = {"table1": paper.LAYERS, "table3": "modules", "table5": "network"}
"""What the column that names a table's rows is called."""
_DIFFERENCES = 3


@dataclass
class System:
    """Runs that share all settings but those that the table varies, and the seed."""

    title: str
    collection: Collection


def systems(table: str, found: Sequence[Record], any_code: bool = False) -> tuple[list[System], list[str]]:
    """The systems of one of the paper's tables, and notes on runs that are left out.

    A system's rows are the paper's, missing ones included; of each as many seeds are wanted as the row that has most.
    Trials of sweeps over something else are left out where they make one row alone, as a search over learning rates.

    Args:
        table: table1, table3 or table5.
        found: runs to choose from.
        any_code: whether runs of different code share rows.

    Raises:
        ConfigError: none is of any row.
    """
    rows = paper_rows.labels(table)
    labelled = [(one, paper_rows.label(table, one.settings)) for one in found if _has_place(table, one)]
    placed = [(one, label) for one, label in labelled if label in rows]
    groups: dict[str, list[tuple[Record, paper.Label]]] = {}
    for one, label in placed:
        groups.setdefault(digest(_shared(table, one)), []).append((one, label))
    kept = {key: members for key, members in groups.items() if not _stray(table, members)} or groups
    if not kept:
        raise ConfigError(f"no run of {table} found; make some with: dcnlab sweep {_example(table)}, or see --runs")
    notes = []
    strays = [one for key, members in groups.items() if key not in kept for one, _ in members]
    if strays:
        notes.append(f"left out: {_runs(len(strays))} of other sweeps, such as {strays[0].folder}")
    if len(found) > len(placed):
        notes.append(f"left out: {_runs(len(found) - len(placed))} of no row of {table}")
    named = titles([members[0][0] for members in kept.values()], table)
    made = [System(title, _collection(table, m, any_code)) for title, m in zip(named, kept.values(), strict=True)]
    return [one for one in made if one.collection.used] or made, notes


def _collection(table: str, members: Sequence[tuple[Record, paper.Label]], any_code: bool) -> Collection:
    collection = Collection([ROW[table]], [])
    label = {id(one): name for one, name in members}
    best = newest([one for one, _ in members], collection.notes, any_code, lambda one: [label[id(one)], one.seed])
    pools = members[0][0].settings["model.name"] in paper.POOLING_MODELS
    runs_of = {name: [one for one in best if label[id(one)] == name] for name in paper_rows.labels(table, pools)}
    wanted = max(len({one.seed for one in own}) for own in runs_of.values())
    for name, own in runs_of.items():
        own.sort(key=lambda one: one.seed)
        settings = own[0].settings if own else paper_rows.settings_of(table, name, members[0][0].settings)
        collection.rows.append(Row({ROW[table]: name}, own, wanted, settings))
    tell_apart(collection, any_code)
    return collection


def _has_place(table: str, one: Record) -> bool:
    return table != "table5" or one.settings["task"] == "detection"


def _shared(table: str, one: Record) -> dict[str, Any]:
    """What a system's runs have in common; a dilation that is not stated is the one that it comes to."""
    shared = one.without(paper.VARIED.get(table, ()))
    return {**shared, paper.DILATION: paper_rows.dilation(one.settings)} if paper.DILATION in shared else shared


def _stray(table: str, members: Sequence[tuple[Record, paper.Label]]) -> bool:
    """Whether runs make one row alone and are of a sweep over something else."""
    own = {*paper.VARIED[table], "seed"}
    alone = len({label for _, label in members}) == 1
    return alone and all(not set(one.results["parameters"]) <= own for one, _ in members)


def titles(firsts: Sequence[Record], table: str) -> list[str]:
    """Network, backbone and data of each system; where that is not enough, the settings that tell them apart.

    Args:
        firsts: a run of each system.
        table: whose rows do not tell systems apart.
    """
    short = []
    for one in firsts:
        settings = one.settings
        root = Path(settings["data.root"] or "").name
        data = settings["data.name"] + (f" ({root})" if root.lower() not in ("", settings["data.name"]) else "")
        short.append(f"{settings['model.name']}, {settings['model.backbone.name']}, {data}")
    full = []
    for title, one in zip(short, firsts, strict=True):
        twins = [_shared(table, other) for other, name in zip(firsts, short, strict=True) if name == title]
        keys = [key for key in twins[0] if len({digest(twin.get(key)) for twin in twins}) > 1]
        said = [f"{key}={_shared(table, one)[key]}" for key in keys[:_DIFFERENCES]]
        more = [f"{len(keys) - _DIFFERENCES} more"] if len(keys) > _DIFFERENCES else []
        full.append(", ".join([title, *said, *more]))
    return full


def _example(table: str) -> str:
    return next((name for name in packaged.names("sweeps") if name.startswith(table)), "SWEEP.yaml")


def _runs(count: int) -> str:
    return f"{count} {'run' if count == 1 else 'runs'}"
