"""Builds a table from runs: of a sweep, of the runs of one name, or one of the paper's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dcnlab.ablations.sweeps import sweep_file
from dcnlab.ablations.tables import (
    collect,
    comparison,
    dilation_table,
    offset_tests,
    paper,
    paper_rows,
    paper_tables,
    run_record,
    statistics,
    sweep_runs,
    wandb_runs,
)
from dcnlab.ablations.tables.collect import CODE, WEIGHTS, Collection
from dcnlab.ablations.tables.comparison import PLAIN, Comparison, Options
from dcnlab.ablations.tables.rows import Row
from dcnlab.ablations.tables.run_record import Record
from dcnlab.ablations.tables.section import section
from dcnlab.ablations.tables.table import Table
from dcnlab.config import packaged
from dcnlab.io.errors import ConfigError
from dcnlab.metrics import names as metric_names
from dcnlab.training.run_folder import OFFSETS


def assemble(
    name: str,
    roots: Sequence[Path],
    overrides: Sequence[str] = (),
    any_code: bool = False,
    wandb: str | None = None,
    options: Options = PLAIN,
) -> Table:
    """The table of a sweep, of the runs of one name, or one of the paper's.

    Args:
        name: path or packaged name of a sweep file; the folder name that runs share; or table1, table2, table3, table5.
        roots: folders to look for runs in.
        overrides: the key=value that the sweep was run with.
        any_code: whether runs of different code share rows.
        wandb: ENTITY/PROJECT/SWEEP or ENTITY/PROJECT, whose runs come too.
        options: how rows are compared.

    Raises:
        ConfigError: no run fits, or the runs cannot share a table.
    """
    records, notes = run_record.records(roots)
    if wandb is not None:
        mirrored, more = wandb_runs.records(wandb)
        records, notes = [*records, *mirrored], [*notes, *more]
    return of_records(name, records, notes, overrides, any_code, options)


def of_records(
    name: str,
    records: Sequence[Record],
    notes: Sequence[str] = (),
    overrides: Sequence[str] = (),
    any_code: bool = False,
    options: Options = PLAIN,
) -> Table:
    """`assemble` of runs that were read before.

    Args:
        name: see `assemble`.
        records: the runs.
        notes: on reading them.
        overrides: see `assemble`.
        any_code: see `assemble`.
        options: see `assemble`.
    """
    if Path(name).suffix in (".yaml", ".yml") or name in packaged.names("sweeps"):
        sweep = sweep_file.read(name)
        collection = sweep_runs.of_sweep(sweep, records, overrides, any_code)
        return summarise(sweep.title, collection, notes, sweep.metric, sweep.goal, options)
    if overrides:
        raise ConfigError(f"{overrides[0]}: only a sweep file's table takes key=value")
    if name == "table2":
        rows, more_notes = dilation_table.of_records(records)
        return Table(f"table2: {paper.read(name)['title']}", [], [*notes, *more_notes], measured=rows)
    if name == "table4":
        raise ConfigError("table4 is counted and timed, not trained: dcnlab complexity")
    if name in paper.VARIED:
        systems, more_notes = paper_tables.systems(name, records, any_code)
        compared = Comparison(options)
        sections = [
            section(system.title, system.collection, name, compared, only=paper.metrics(name)) for system in systems
        ]
        notes = [*notes, *more_notes, *(note for system in systems for note in system.collection.notes)]
        notes += [note for system in systems for note in _notes(system.collection)]
        return _compared(Table(f"{name}: {paper.read(name)['title']}", sections, notes), compared)
    return summarise(name, collect.of_name(name, records, any_code), notes, options=options)


def summarise(
    title: str,
    collection: Collection,
    notes: Sequence[str] = (),
    metric: str | None = None,
    goal: str | None = None,
    options: Options = PLAIN,
) -> Table:
    """A table of one section.

    Args:
        title: of the table.
        collection: rows, each with its runs.
        notes: printed before those of the collection.
        metric: the sweep's metric, which is shown first.
        goal: of the metric: maximize | minimize; None: as its name says.
        options: how rows are compared.
    """
    first = [] if metric is None else [metric.rpartition("/")[2]]
    if collection.ranked and first:
        _rank(collection, first[0], goal or metric_names.goal(first[0]))
    collection = offset_tests.with_tests(collection)
    table = paper_rows.table_of(collection.swept)
    compared = Comparison(options)
    sections = [section(title, part, table, compared, first) for title, part in _by_system(collection)]
    varied = [key for key in collection.swept if key not in (CODE, WEIGHTS, OFFSETS)]
    orientation = varied == [paper.LAYERS] and not any(part.counterpart for part in sections)
    notes = [*notes, *collection.notes, *_notes(collection)]
    shown = list(dict.fromkeys(name for part in sections for name in part.shown))
    notes += offset_tests.notes_on_tests(collection, shown, compared)
    return _compared(Table(title, sections, notes, orientation), compared)


def _notes(collection: Collection) -> list[str]:
    """On the runs behind the rows: seeds without all folds, and means that lack classes."""
    return [*(note for row in collection.rows for note in row.notes), *run_record.means_over(collection.used)]


def _compared(table: Table, compared: Comparison) -> Table:
    """The table with each p corrected for its rows, and with notes on what the comparisons allow to conclude."""
    rows = [row for part in table.sections for row in part.rows]
    comparison.correct(rows, table.metrics)
    shown = list(dict.fromkeys(name for part in table.sections for name in part.shown))
    table.notes += [*comparison.notes_on_tests(rows, shown), *compared.notes]
    return table


def _by_system(collection: Collection) -> list[tuple[str, Collection]]:
    """The rows of each system, for a sweep over networks or data sets and over what the paper varies."""
    keys = [key for key in collection.swept if key == "model.name" or key.startswith(("model.backbone.", "data."))]
    if not keys or paper_rows.table_of(collection.swept) is None:
        return [("", collection)]
    parts: dict[str, list[Row]] = {}
    for row in collection.rows:
        parts.setdefault(", ".join(f"{key}={row.parameters[key]}" for key in keys), []).append(row)
    return [(title, replace(collection, rows=rows)) for title, rows in parts.items()]


def _rank(collection: Collection, metric: str, goal: str) -> None:
    """Best first; rows without a run last."""

    def key(row: Row) -> tuple[bool, float]:
        return statistics.rank(statistics.mean(list(comparison.scores(row, metric).values())), goal)

    collection.rows.sort(key=key)
