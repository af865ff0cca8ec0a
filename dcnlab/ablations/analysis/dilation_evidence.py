"""Evidence of measured runs on table 2's claims: rows, a table, notes and a chart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dcnlab.ablations.tables import dilation_claims, dilation_runs
from dcnlab.ablations.tables.render import Block
from dcnlab.io.atomic import write_whole
from dcnlab.io.errors import ConfigError

PICTURES = (".png", ".pdf", ".svg")


class Evidence(NamedTuple):
    """What `dcnlab dilation --claims` shows."""

    rows: list[dict[str, Any]]
    blocks: list[Block]
    notes: list[str]


def assemble(folders: Sequence[Path], figure: Path | None = None) -> Evidence:
    """Tests of the paper's claims on measured runs, see `dilation_claims.rows`.

    Args:
        folders: run folders with a dilation_boxes.npz, of different seeds.
        figure: the chart to write; None: none.

    Raises:
        ConfigError: a run was not measured, the runs differ in more than the seed, or `figure` has another ending.
    """
    if figure is not None and figure.suffix.lower() not in PICTURES:
        raise ConfigError(f"--figure {figure} must end in one of {', '.join(PICTURES)}")
    runs = dilation_runs.read(folders)
    rows = dilation_claims.rows(runs)
    if figure is not None:
        from dcnlab.ablations.plots import dilation_chart, style  # imports matplotlib, which the table does not need
        from dcnlab.ablations.tables import dilation_bins

        count = f"{len(runs)} seeds" if len(runs) > 1 else "1 seed"
        title = f"Effective dilation against box size: {folders[0].parent.name}, {count}"
        picture = style.encode(dilation_chart.draw(dilation_bins.panels(runs), title), figure.suffix.lower()[1:])
        figure.parent.mkdir(parents=True, exist_ok=True)
        write_whole(figure, picture)
    return Evidence(rows, [dilation_claims.block(rows)], dilation_claims.notes(rows))
