"""Charts with a line for each row: dots of its seeds, or a difference with its interval."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from dcnlab.ablations.numbers import mean_and_std
from dcnlab.ablations.plots.chart_shapes import Shape, short, text_at, tick_text, ticks
from dcnlab.ablations.plots.charts import WIDTH, Chart, chart

_ROW, _LINE, _LETTERS = 44.0, 14.0, 38
"""Heights of a row and of another line of its label, and letters that a line of it has room for."""


def dots(metric: str, caption: str, rows: Sequence[tuple[str, Sequence[float]]], base: float | None = None) -> Chart:
    """A chart with a line of dots for each row: a dot for each seed, their mean, and the base value.

    Args:
        metric: what is shown, percent.
        caption: of the figure.
        rows: label and the seeds' values, at least one each.
        base: the value that means are compared with.
    """
    frame = _Frame([label for label, _ in rows], [value for _, seeds in rows for value in seeds])
    parts = frame.axis(f"{metric} (%)")
    if base is not None:
        parts += frame.upright("base", base)
    for (_, seeds), (y, lines_of_label) in zip(rows, frame.places, strict=True):
        mean = short(frame.across(statistics.fmean(seeds)))
        parts += _label(lines_of_label, y, _spread(seeds))
        parts += [Shape("circle", {"class": "dot", "cx": short(frame.across(seed)), "cy": y, "r": 4}) for seed in seeds]
        parts.append(Shape("line", {"class": "mean", "x1": mean, "y1": y - 8, "x2": mean, "y2": y + 8}))
    return chart(metric, caption, [f"{label}: {_spread(seeds)}" for label, seeds in rows], frame.height, parts)


@dataclass(frozen=True)
class Gain:
    """A difference to draw, with its interval; low and high are None without one."""

    label: str
    value: float
    low: float | None
    high: float | None


def gains(caption: str, rows: Sequence[Gain]) -> Chart:
    """A chart of differences, each with its interval, around a line at zero.

    Args:
        caption: of the figure.
        rows: the first on top, at least one.
    """
    ends = [end for row in rows for end in (row.value, row.low, row.high, 0.0) if end is not None]
    frame = _Frame([row.label for row in rows], ends)
    parts = frame.axis("percentage points", base=0.0)
    for row, (y, lines_of_label) in zip(rows, frame.places, strict=True):
        parts += _label(lines_of_label, y, f"{row.value:+.2f}")
        if row.low is not None and row.high is not None:
            x1, x2 = short(frame.across(row.low)), short(frame.across(row.high))
            parts.append(Shape("line", {"class": "interval", "x1": x1, "y1": y, "x2": x2, "y2": y}))
        parts.append(Shape("circle", {"class": "dot full", "cx": short(frame.across(row.value)), "cy": y, "r": 4.5}))
    return chart("difference", caption, [_gain_text(row) for row in rows], frame.height, parts)


class _Frame:
    """The frame of a chart of rows: where each row is, and an x axis that covers all values.

    Args:
        labels: of the rows.
        values: all that the rows show.
    """

    def __init__(self, labels: Sequence[str], values: Sequence[float]) -> None:
        self.places, end = _places(labels)
        self.height = end + 40
        self._ticks = ticks(min(values), max(values), 5)
        self._low, self._high = min(self._ticks[0], *values), max(self._ticks[-1], *values)

    def across(self, value: float) -> float:
        """The x of a value, pixels."""
        return 16 + (value - self._low) / (self._high - self._low or 1) * (WIDTH - 32)

    def axis(self, name: str, base: float | None = None) -> list[Shape]:
        """The ticks and the axis' name; the tick at `base` is drawn as the base value."""
        parts: list[Shape] = []
        for tick in self._ticks:
            parts += self.upright("base" if base is not None and abs(tick - base) < 1e-9 else "grid", tick)
            parts.append(text_at(self.across(tick), self.height - 20, tick_text(tick, self._ticks), "middle"))
        return [*parts, text_at(WIDTH / 2, self.height - 4, name, "middle")]

    def upright(self, name: str, value: float) -> list[Shape]:
        """An upright line at a value behind the marks of each row, interrupted where the labels are."""
        x = short(self.across(value))
        return [
            Shape("line", {"class": name, "x1": x, "y1": short(y - 10), "x2": x, "y2": short(y + 10)})
            for y, _ in self.places
        ]


def _gain_text(row: Gain) -> str:
    interval = "" if row.low is None or row.high is None else f", {row.low:+.2f} to {row.high:+.2f}"
    return f"{row.label}: {row.value:+.2f}{interval}"


def _places(labels: Sequence[str]) -> tuple[list[tuple[float, list[str]]], float]:
    """For each row the height of its marks and the lines of its label, and where the last row ends."""
    places, top = [], 0.0
    for label in labels:
        lines_of_label = textwrap.wrap(label, _LETTERS) or [""]
        more = _LINE * (len(lines_of_label) - 1)
        places.append((top + more + 30, lines_of_label))
        top += _ROW + more
    return places, top


def _label(lines_of_label: Sequence[str], y: float, value: str) -> list[Shape]:
    """A row's label, whole, and its value above its marks."""
    top = y - 14 - _LINE * (len(lines_of_label) - 1)
    words = [text_at(2, top + _LINE * at, line, "start", "label") for at, line in enumerate(lines_of_label)]
    return [*words, text_at(WIDTH - 2, y - 14, value, "end", "label")]


def _spread(values: Sequence[float]) -> str:
    return mean_and_std(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)
