"""The contents of a report: tables of comparable runs, and the runs without a score."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dcnlab.ablations.tables.run_record import Record
from dcnlab.ablations.tables.section import Section
from dcnlab.ablations.tables.table import Table


@dataclass
class Row:
    """A row of a table and the runs behind it."""

    figures: dict[str, Any]
    """See `table.Table.rows`."""
    settings: list[str]
    """The first cells of its lines: the value of the swept setting, or its name where there are several."""
    label: str
    """Its short name, see `row_names`."""
    records: list[Record]
    """One run for each seed."""


@dataclass
class Group:
    """Runs that are compared with one another: they share a name and all settings but the swept ones and the seed."""

    name: str
    title: str
    """The name, numbered where runs of it are of several settings."""
    apart: dict[str, str]
    """Settings in which it differs from other groups of that name; empty if there are none."""
    table: Table
    """Of one section."""
    rows: list[Row]
    command: str | None
    """The command that repeats all of it; None if one command cannot."""

    @property
    def section(self) -> Section:
        """The only section of the table."""
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
    """The content of the page."""

    root: Path
    groups: list[Group]
    papers: list[Table]
    """The paper's tables, those in which the runs fill two rows or more."""
    unfinished: list[Unfinished]
    notes: list[str] = field(default_factory=list)

    @property
    def records(self) -> list[Record]:
        """Every run that a table counts, once."""
        return list({record.folder: record for group in self.groups for record in group.records}.values())
