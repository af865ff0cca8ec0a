"""Table: rows of settings with mean and spread over seeds and the paper's values, and how people read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dcnlab.ablations.tables import (
    dilation_table,
    layout,
)
from dcnlab.ablations.tables import render as rendering
from dcnlab.ablations.tables.block import Block
from dcnlab.ablations.tables.section import Section

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
        """The settings in which the rows differ, a column each."""
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
