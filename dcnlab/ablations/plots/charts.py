"""Charts of the report as shapes of SVG; lines differ in colour and in marker."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dcnlab.ablations.numbers import mean_and_std
from dcnlab.ablations.plots.chart_shapes import Shape, marker, path_through, short, text_at, tick_text, ticks

LINES = 8
"""Maximum of rows in a chart, each with a colour and a marker."""

WIDTH, HEIGHT = 360.0, 230.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 42.0, 10.0, 10.0, 36.0
_ROW, _LINE, _LETTERS = 44.0, 14.0, 38
"""Heights of a row and of another line of its label, and letters that a line of it has room for."""
_BANDS = 3
"""Maximum of rows whose ranges are drawn as bands; more would cover each other."""


@dataclass
class Curve:
    """The values of one row along x: mean, minimum and maximum over its runs."""

    label: str
    x: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]
    runs: int


@dataclass(frozen=True)
class Chart:
    """A chart of the page."""

    caption: str
    described: str
    """A description of the chart, for screen readers."""
    width: str
    height: str
    shapes: list[Shape]
    """The first drawn first."""


def legend(labels: Sequence[str]) -> list[tuple[str, list[Shape]]]:
    """The legend of charts: labels, and the shapes of their keys, 28 by 14 pixels."""
    line = {"x1": 1, "y1": 7, "x2": 27, "y2": 7}
    return [
        (label, [Shape("line", {"class": f"line s{at}", **line}), marker(at, 14, 7)])
        for at, label in enumerate(labels[:LINES])
    ]


def lines(name: str, caption: str, curves: Sequence[Curve | None], x_label: str) -> Chart:
    """A chart with a line for each row: the mean of its runs, in a band from their minimum to their maximum.

    Args:
        name: what the y axis shows.
        caption: of the figure.
        curves: one for each line of the legend, at most `LINES`; None for one that is missing.
        x_label: what the x axis shows.
    """
    present = [(number, curve) for number, curve in enumerate(curves) if curve is not None]
    xs = [x for _, curve in present for x in curve.x]
    ys = [y for _, curve in present for y in (*curve.low, *curve.high)]
    x_ticks, y_ticks = ticks(min(xs), max(xs), 5), ticks(min(ys), max(ys), 5)
    x_low, x_high = min(xs), max(xs)
    y_low, y_high = min(y_ticks[0], min(ys)), max(y_ticks[-1], max(ys))

    def at(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low or 1)
        up = (y - y_low) / (y_high - y_low or 1)
        return _LEFT + across * (WIDTH - _LEFT - _RIGHT), HEIGHT - _BOTTOM - up * (HEIGHT - _TOP - _BOTTOM)

    parts: list[Shape] = []
    for y in y_ticks:
        (left, height), (right, _) = at(x_low, y), at(x_high, y)
        parts.append(
            Shape("line", {"class": "grid", "x1": left, "y1": short(height), "x2": right, "y2": short(height)})
        )
        parts.append(text_at(left - 5, height + 4, tick_text(y, y_ticks), "end"))
    for x in [x for x in x_ticks if x_low <= x <= x_high]:
        parts.append(text_at(at(x, y_low)[0], HEIGHT - _BOTTOM + 15, tick_text(x, x_ticks), "middle"))
    parts.append(text_at((_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 4, x_label, "middle"))
    for number, curve in present:
        if curve.runs > 1 and len(present) <= _BANDS:
            outline = [at(*point) for point in zip(curve.x, curve.high, strict=True)]
            outline += [at(*point) for point in zip(curve.x[::-1], curve.low[::-1], strict=True)]
            parts.append(Shape("path", {"class": f"band s{number}", "d": path_through(outline) + "Z"}))
    for number, curve in present:
        course = [at(*point) for point in zip(curve.x, curve.mean, strict=True)]
        parts.append(Shape("path", {"class": f"line s{number}", "d": path_through(course)}))
        parts.append(marker(number, *course[-1]))
    return _chart(name, caption, list(_ends([curve for _, curve in present])), HEIGHT, parts)


def dots(metric: str, caption: str, rows: Sequence[tuple[str, Sequence[float]]], base: float | None = None) -> Chart:
    """A chart with a line of dots for each row: a dot for each seed, their mean, and the base value.

    Args:
        metric: what is shown, percent.
        caption: of the figure.
        rows: label and the seeds' values, at least one each.
        base: the value that means are compared with.
    """
    values = [value for _, seeds in rows for value in seeds]
    marks = ticks(min(values), max(values), 5)
    low, high = min(marks[0], min(values)), max(marks[-1], max(values))

    def across(value: float) -> float:
        return 16 + (value - low) / (high - low or 1) * (WIDTH - 32)

    places, end = _places([label for label, _ in rows])
    height = end + 40
    parts: list[Shape] = []
    for value in marks:
        parts += _upright("grid", across(value), places)
        parts.append(text_at(across(value), height - 20, tick_text(value, marks), "middle"))
    parts.append(text_at(WIDTH / 2, height - 4, f"{metric} (%)", "middle"))
    if base is not None:
        parts += _upright("base", across(base), places)
    for (_, seeds), (y, lines_of_label) in zip(rows, places, strict=True):
        mean = across(statistics.fmean(seeds))
        parts += _label(lines_of_label, y, _spread(seeds))
        parts += [Shape("circle", {"class": "dot", "cx": short(across(seed)), "cy": y, "r": 4}) for seed in seeds]
        parts.append(Shape("line", {"class": "mean", "x1": short(mean), "y1": y - 8, "x2": short(mean), "y2": y + 8}))
    words = [f"{label}: {_spread(seeds)}" for label, seeds in rows]
    return _chart(metric, caption, words, height, parts)


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
    marks = ticks(min(ends), max(ends), 5)
    low, high = min(marks[0], *ends), max(marks[-1], *ends)

    def across(value: float) -> float:
        return 16 + (value - low) / (high - low or 1) * (WIDTH - 32)

    places, end = _places([row.label for row in rows])
    height = end + 40
    parts: list[Shape] = []
    for mark in marks:
        parts += _upright("base" if abs(mark) < 1e-9 else "grid", across(mark), places)
        parts.append(text_at(across(mark), height - 20, tick_text(mark, marks), "middle"))
    parts.append(text_at(WIDTH / 2, height - 4, "percentage points", "middle"))
    for row, (y, lines_of_label) in zip(rows, places, strict=True):
        parts += _label(lines_of_label, y, f"{row.value:+.2f}")
        if row.low is not None and row.high is not None:
            x1, x2 = short(across(row.low)), short(across(row.high))
            parts.append(Shape("line", {"class": "interval", "x1": x1, "y1": y, "x2": x2, "y2": y}))
        parts.append(Shape("circle", {"class": "dot full", "cx": short(across(row.value)), "cy": y, "r": 4.5}))
    return _chart("difference", caption, [_gain_text(row) for row in rows], height, parts)


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


def _upright(name: str, x: float, places: Sequence[tuple[float, list[str]]]) -> list[Shape]:
    """An upright line behind the marks of each row, interrupted where the labels are."""
    at = short(x)
    return [
        Shape("line", {"class": name, "x1": at, "y1": short(y - 10), "x2": at, "y2": short(y + 10)}) for y, _ in places
    ]


def _label(lines_of_label: Sequence[str], y: float, value: str) -> list[Shape]:
    """A row's label, whole, and its value above its marks."""
    top = y - 14 - _LINE * (len(lines_of_label) - 1)
    words = [text_at(2, top + _LINE * at, line, "start", "label") for at, line in enumerate(lines_of_label)]
    return [*words, text_at(WIDTH - 2, y - 14, value, "end", "label")]


def _spread(values: Sequence[float]) -> str:
    return mean_and_std(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def _chart(name: str, caption: str, words: Sequence[str], height: float, shapes: list[Shape]) -> Chart:
    return Chart(caption, f"{name}. {'; '.join(words)}", short(WIDTH), short(height), shapes)


def _ends(curves: Sequence[Curve]) -> Iterator[str]:
    for curve in curves:
        spread = f" ({curve.low[-1]:.3g} to {curve.high[-1]:.3g})" if curve.runs > 1 else ""
        yield f"{curve.label} ends at {curve.mean[-1]:.3g}{spread}"
