"""Compares a row with its base: difference, bootstrap and t intervals, sign-flip p, and what they allow to say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dcnlab.ablations.tables import bootstrap, statistics, student
from dcnlab.ablations.tables.drawn_scores import DrawnScores
from dcnlab.ablations.tables.rows import Row
from dcnlab.metrics import names as metric_names

NO_CONCLUSION = "no conclusion"
"""Where an interval covers zero, or there is none."""


@dataclass(frozen=True)
class Options:
    """How rows are compared."""

    block: int = 1
    """Consecutive test images that the bootstrap draws together."""
    power: bool = False
    """Whether to add how many seeds would show a difference of one point."""
    against: tuple[tuple[str, Any], ...] = ()
    """Keys and values of the row that the others are compared with; empty: see `section`."""


PLAIN = Options()
"""The default."""


class Comparison:
    """Compares the rows of one table.

    Args:
        options: of the table.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self._drawn = DrawnScores(options.block)

    def of(self, row: Row, metric: str, base: Row | None, images: bool) -> dict[str, Any]:
        """The cells of a metric of one row; see `table.Table.rows`.

        Args:
            row: of the table.
            metric: name.
            base: the row to compare with, or None.
            images: whether to draw test images too; without, there is no bootstrap interval.
        """
        values, others = scores(row, metric), None if base is None else scores(base, metric)
        spread = statistics.spread(values, others)
        drawn = None
        if images and base is not None and len(spread.differences) > 1:
            drawn = bootstrap.interval(self._drawn.differences(row, base, metric, spread.differences))
        t = student.interval(list(spread.differences.values()))
        cells = {
            metric: spread.mean,
            f"{metric}_std": spread.std,
            f"{metric}_difference": spread.difference,
            f"{metric}_low": None if drawn is None else drawn[0],
            f"{metric}_high": None if drawn is None else drawn[1],
            f"{metric}_t_low": None if t is None else t[0],
            f"{metric}_t_high": None if t is None else t[1],
            f"{metric}_p": spread.p,
            f"{metric}_p_holm": None,
            f"{metric}_conclusion": _conclusion(metric, spread.difference, (drawn, t)) if images else None,
            f"{metric}_values": {str(seed): value for seed, value in values.items()},
            f"{metric}_differences": {str(seed): value for seed, value in spread.differences.items()},
        }
        if self.options.power:
            pairs = list(spread.differences.values())
            seeds = student.pairs_needed(float(np.std(pairs, ddof=1))) if len(pairs) > 1 else None
            cells[f"{metric}_seeds_for_one_point"] = seeds
        return cells

    @property
    def notes(self) -> list[str]:
        """A line for each reason why bootstrap intervals are over seeds alone."""
        return self._drawn.notes


def scores(row: Row, metric: str) -> dict[int, float]:
    """A metric's values of a row's runs, by seed."""
    values = [(runs.seed, runs.metrics.get(metric)) for runs in row.seeds]
    return dict(sorted((seed, value) for seed, value in values if value is not None))


def bounds(row: Mapping[str, Any], metric: str) -> tuple[float, float] | None:
    """The outer bounds of a row's two intervals; None where there are none.

    Over few seeds a bootstrap is too narrow, and Student's t knows nothing of the test images.
    """
    ends = [row.get(f"{metric}{end}") for end in ("_low", "_t_low", "_high", "_t_high")]
    values = [end for end in ends if end is not None]
    return None if len(values) < len(ends) else (min(values), max(values))


def correct(rows: Sequence[dict[str, Any]], metrics: Sequence[str]) -> None:
    """Fill in METRIC_p_holm: each p, corrected for the number of rows that were tested in that metric."""
    for metric in metrics:
        tested = [row for row in rows if row.get(f"{metric}_p") is not None]
        corrected = statistics.holm([row[f"{metric}_p"] for row in tested])
        for row, p in zip(tested, corrected, strict=True):
            row[f"{metric}_p_holm"] = p


def _conclusion(metric: str, difference: float | None, intervals: Sequence[tuple[float, float] | None]) -> str | None:
    """Whether the row is better or worse: both intervals and the difference of means are on one side of zero."""
    if difference is None:
        return None
    sides = [_side(interval) for interval in (*intervals, (difference, difference))]
    if sides[0] == 0 or len(set(sides)) > 1:
        return NO_CONCLUSION
    better = 1 if metric_names.goal(metric) == "maximize" else -1
    return "better" if sides[0] == better else "worse"


def _side(interval: tuple[float, float] | None) -> int:
    """1 above zero, -1 below it, 0 where an interval covers it or is missing."""
    if interval is None or interval[0] <= 0 <= interval[1]:
        return 0
    return 1 if interval[0] > 0 else -1


def notes_on_tests(rows: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> list[str]:
    """Notes on what the intervals and tests of a table's rows allow to conclude."""
    compared = [
        (len(row[f"{metric}_differences"]), row[f"{metric}_conclusion"])
        for row in rows
        for metric in metrics
        if row.get(f"{metric}_difference") is not None
    ]
    if not compared:
        return []
    notes, most = [], max(pairs for pairs, _ in compared)
    if any(pairs < 2 for pairs, _ in compared):
        notes.append("a difference of one seed has no interval over seeds, and allows no conclusion")
    if most < 2:
        return notes
    notes.append(
        "[low, high]: the outer bounds of two 95% intervals, a bootstrap over seeds and test images and Student's t "
        f"over seeds, for the seeds that both rows have; {NO_CONCLUSION}: they cover zero"
    )
    if not statistics.can_be_significant(most):
        smallest = 2 / 2**most
        notes.append(
            f"the sign-flip test shows nothing here: over {most} seeds its smallest p is {smallest:.3g}; from 6 seeds "
            "on p is shown"
        )
    else:
        notes.append("p (Holm): exact paired sign-flip test over seeds, two-sided, corrected for the table's rows")
    return notes
