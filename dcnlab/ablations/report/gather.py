"""Gathers run folders into the groups, tables and failures of a report."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dcnlab.ablations.report.contents import Group, Report, Row
from dcnlab.ablations.report.settings import differing_settings, join_fits, kinds_of_settings, trials_of_other_sweeps
from dcnlab.ablations.report.unfinished import unfinished_runs
from dcnlab.ablations.tables import build_table, collect, paper, run_record
from dcnlab.ablations.tables.row_names import label, row_names
from dcnlab.ablations.tables.run_record import Record
from dcnlab.ablations.tables.table import Table
from dcnlab.io.errors import ConfigError


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
    records, notes = run_record.records([root])
    finished = [record for record in records if record.finished]
    unfinished = unfinished_runs(root, records)
    if not finished and not unfinished:
        raise ConfigError(f"{root}: no runs in it" + (f" that can be read; {notes[0]}" if notes else ""))
    groups: list[Group] = []
    for name in dict.fromkeys(record.name for record in finished):
        kinds = join_fits(kinds_of_settings(name, [record for record in finished if record.name == name]))
        if len(kinds) > 1:
            notes.append(
                f"{name}: the runs are of {len(kinds)} sets of settings, which one table cannot mix; each has a table"
            )
        for number, (overrides, kind) in enumerate(kinds, 1):
            title = f"{name} ({number} of {len(kinds)})" if len(kinds) > 1 else name
            apart = differing_settings(kind[0], [other[0] for _, other in kinds])
            used = kind if overrides is None else [*kind, *trials_of_other_sweeps(name, overrides, finished)]
            table, command = _table(name, overrides, used, any_code), _command(name, overrides, kind)
            groups += _groups(name, title, apart, table, command, used)
    return Report(root, groups, _papers(finished, any_code), unfinished, notes)


def _table(name: str, overrides: list[str] | None, records: list[Record], any_code: bool) -> Table:
    """The table of runs of one kind; of the trials of a packaged sweep, the sweep's table with missing trials."""
    if overrides is None:
        return build_table.summarise(name, collect.of_name(name, records, any_code))
    return build_table.of_records(name, records, overrides=overrides, any_code=any_code)


def _command(name: str, overrides: list[str] | None, records: list[Record]) -> str | None:
    """The command that runs the missing trials of a sweep; None where the runs are of no sweep."""
    if overrides is None:
        return None
    homes = {record.folder.parent.parent for record in records}
    where = ["--out", str(homes.pop())] if len(homes) == 1 else []
    return shlex.join(["dcnlab", "sweep", name, *overrides, *where])


def _groups(
    name: str, title: str, apart: dict[str, str], table: Table, command: str | None, records: list[Record]
) -> list[Group]:
    """A group for each section of a table."""
    folders = {str(record.folder): record for record in records}
    groups: list[Group] = []
    for part in table.sections:
        names = row_names(part.swept, part.rows) if part.swept else ["all seeds"] * len(part.rows)
        rows = [_row(row, part.swept, name, folders) for row, name in zip(part.rows, names, strict=True)]
        full = f"{title}: {part.title}" if part.title else title
        first = part is table.sections[0]
        table_of_part = replace(
            table, sections=[part], notes=table.notes if first else [], orientation=first and table.orientation
        )
        groups.append(Group(name, full, apart, table_of_part, rows, command))
    return groups


def _row(figures: dict[str, Any], swept: Sequence[str], name: str, folders: dict[str, Record]) -> Row:
    setting = label(swept[0], figures.get(swept[0])) or "not set" if len(swept) == 1 else name
    # The tests under other offsets have rows, and no folder of a training.
    trained = [folders[folder] for folder in figures["runs"] if folder in folders]
    records = sorted(trained, key=lambda record: record.seed)
    return Row(figures, [setting], name, records)


def _papers(finished: Sequence[Record], any_code: bool) -> list[Table]:
    filled = []
    for name in paper.VARIED:
        try:
            table = build_table.of_records(name, finished, any_code=any_code)
        except ConfigError:  # no run is of any of its rows
            continue
        sections = [part for part in table.sections if sum(row["seeds"] > 0 for row in part.rows) > 1]
        if sections:
            filled.append(replace(table, sections=sections))
    return filled
