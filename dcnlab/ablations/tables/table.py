"""Ablation tables: a row for each setting, mean and spread over seeds, and the paper's values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dcnlab.ablations.sweeps import sweep_file
from dcnlab.ablations.tables import (
    collect,
    comparison,
    dilation_table,
    layout,
    offset_tests,
    paper,
    paper_rows,
    paper_tables,
    run_record,
    statistics,
    sweep_runs,
    wandb_runs,
)
from dcnlab.ablations.tables import render as rendering
from dcnlab.ablations.tables.block import Block
from dcnlab.ablations.tables.collect import CODE, WEIGHTS, Collection
from dcnlab.ablations.tables.comparison import PLAIN, Comparison, Options
from dcnlab.ablations.tables.rows import Row
from dcnlab.ablations.tables.run_record import Record
from dcnlab.ablations.tables.section import Section, section
from dcnlab.config import packaged
from dcnlab.io.errors import ConfigError
from dcnlab.metrics import names as metric_names
from dcnlab.training.run_folder import OFFSETS

FORMATS = rendering.FORMATS
TABLE2 = ("system", "layer", "seeds")
"""The leading columns of table 2 over all runs."""


@dataclass
class Table:
    """A table at full precision."""

    title: str
    sections: list[Section]
    notes: list[str]
    orientation: bool = False
    """Whether to show the paper's whole table 1 below: for deformable layers in a network that the paper lacks."""
    measured: list[dict[str, Any]] | None = None
    """The rows of table 2, which has no sections: see `dilation_table.of_records`."""

    @property
    def swept(self) -> list[str]:
        """The columns that tell rows apart."""
        return list(dict.fromkeys(name for section in self.sections for name in section.swept))

    @property
    def metrics(self) -> list[str]:
        """Those of all sections."""
        return list(dict.fromkeys(name for section in self.sections for name in section.metrics))

    @property
    def rows(self) -> list[dict[str, Any]]:
        """All rows; what json holds, and csv, in which mappings are JSON text.

        `system` where there are several; the swept parameters; of each metric, percent: METRIC, the mean;
        METRIC_std (n - 1); METRIC_difference, of means, to the row `none` (no such row: the first); METRIC_low and
        METRIC_high, the difference's 95% interval by a two-way bootstrap, for metrics that people are shown;
        METRIC_t_low and METRIC_t_high, Student's over the seeds that both have; METRIC_p, of the exact paired sign-flip
        test over those seeds, METRIC_p_holm, corrected for the table's rows; METRIC_conclusion: better, worse or no
        conclusion; METRIC_values and METRIC_differences, by seed; with `Options.power` METRIC_seeds_for_one_point;
        where the paper has the row, paper_METRIC and paper_METRIC_difference, to the same row as ours. Then seeds,
        seeds_wanted, params, macs, train_seconds (means), base, whether others are compared with this row; runs, the
        folders; and for a system of the paper: paper, its description, and paper_differs, its differences from ours.
        None: missing or undefined.
        """
        if self.measured is not None:
            return self.measured
        named = len(self.sections) > 1
        return [({"system": part.title} if named else {}) | row for part in self.sections for row in part.rows]


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


def cells(table: Table) -> tuple[list[str], list[list[str]]]:
    """Header and rows of all sections as people read them, in one grid; see `blocks`."""
    if table.measured is not None:
        return dilation_table.layout(table.measured, TABLE2)[1:3]
    return layout.grid(table.sections)[:2]


def render(table: Table, form: str) -> str:
    """The table as text, without escape codes; csv and json hold `Table.rows` at full precision.

    Args:
        table: to show.
        form: markdown, latex, csv or json; `rich` is for `show`.
    """
    return rendering.render(table.rows, blocks(table, table.title if form == "latex" else ""), form)


def show(table: Table) -> None:
    """Print the table with rich; plain text where stdout is not a terminal."""
    rendering.show(blocks(table, table.title))


def blocks(table: Table, caption: str) -> list[Block]:
    """Blocks of text, one for each system: ours next to the paper's, and the paper's table 1 for orientation.

    Args:
        table: to show.
        caption: of the whole; may be empty.
    """
    if table.measured is not None:
        return [dilation_table.layout(table.measured, TABLE2, caption)]
    return layout.blocks(table.sections, caption, table.orientation)
