"""Charts of the report as shapes of SVG; lines differ in colour and in marker."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from dcnlab.ablations.numbers import mean_and_std

LINES = 8
"""The most rows that one chart tells apart."""

WIDTH, HEIGHT = 360.0, 230.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 42.0, 10.0, 10.0, 36.0
_ROW = 44.0


@dataclass
class Curve:
    """One row's course: mean over its runs, and the lowest and highest of them."""

    label: str
    x: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]
    runs: int


class Shape(NamedTuple):
    """An element of SVG."""

    tag: str
    attributes: dict[str, str | float]
    text: str = ""


@dataclass(frozen=True)
class Chart:
    """A figure of the page."""

    caption: str
    described: str
    """What it shows, in words."""
    width: str
    height: str
    shapes: list[Shape]
    """The first drawn first."""


def legend(labels: Sequence[str]) -> list[tuple[str, list[Shape]]]:
    """What the lines and markers of charts stand for: labels, and the shapes of their keys, 28 by 14 pixels."""
    line = {"x1": 1, "y1": 7, "x2": 27, "y2": 7}
    return [
        (label, [Shape("line", {"class": f"line s{at}", **line}), _marker(at, 14, 7)])
        for at, label in enumerate(labels[:LINES])
    ]


def lines(name: str, caption: str, curves: Sequence[Curve | None], x_label: str) -> Chart:
    """A figure with a line a row: the mean of its runs, in the band from their lowest to their highest.

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
        parts.append(Shape("line", {"class": "grid", "x1": left, "y1": _n(height), "x2": right, "y2": _n(height)}))
        parts.append(_text(left - 5, height + 4, _tick(y, y_ticks), "end"))
    for x in [x for x in x_ticks if x_low <= x <= x_high]:
        parts.append(_text(at(x, y_low)[0], HEIGHT - _BOTTOM + 15, _tick(x, x_ticks), "middle"))
    parts.append(_text((_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 4, x_label, "middle"))
    for number, curve in present:
        if curve.runs > 1:
            outline = [at(*point) for point in zip(curve.x, curve.high, strict=True)]
            outline += [at(*point) for point in zip(curve.x[::-1], curve.low[::-1], strict=True)]
            parts.append(Shape("path", {"class": f"band s{number}", "d": _path(outline) + "Z"}))
    for number, curve in present:
        course = [at(*point) for point in zip(curve.x, curve.mean, strict=True)]
        parts.append(Shape("path", {"class": f"line s{number}", "d": _path(course)}))
        step = max(1, len(course) // 5)
        parts += [_marker(number, *point) for point in course[number * step // len(curves) :: step]]
    return _chart(name, caption, list(_ends([curve for _, curve in present])), HEIGHT, parts)


def dots(metric: str, caption: str, rows: Sequence[tuple[str, Sequence[float]]], base: float | None = None) -> Chart:
    """A figure with a line of dots for each row: a dot a seed, their mean, and its distance to the base.

    Args:
        metric: what is shown, percent.
        caption: of the figure.
        rows: label and the seeds' figures, at least one each.
        base: what the means are compared with.
    """
    values = [value for _, seeds in rows for value in seeds]
    marks = ticks(min(values), max(values), 5)
    low, high = min(marks[0], min(values)), max(marks[-1], max(values))

    def across(value: float) -> float:
        return 16 + (value - low) / (high - low or 1) * (WIDTH - 32)

    height = _ROW * len(rows) + 40
    parts: list[Shape] = []
    for value in marks:
        x = _n(across(value))
        parts.append(Shape("line", {"class": "grid", "x1": x, "y1": 4, "x2": x, "y2": _n(height - 34)}))
        parts.append(_text(across(value), height - 20, _tick(value, marks), "middle"))
    parts.append(_text(WIDTH / 2, height - 4, f"{metric} (%)", "middle"))
    if base is not None:
        x = _n(across(base))
        parts.append(Shape("line", {"class": "base", "x1": x, "y1": 4, "x2": x, "y2": _n(height - 34)}))
    for number, (label, seeds) in enumerate(rows):
        y = number * _ROW + 30
        mean = across(statistics.fmean(seeds))
        parts.append(_text(2, y - 14, label if len(label) <= 40 else f"{label[:39]}…", "start", "label"))
        parts.append(_text(WIDTH - 2, y - 14, _spread(seeds), "end", "label"))
        parts += [Shape("circle", {"class": "dot", "cx": _n(across(seed)), "cy": y, "r": 4}) for seed in seeds]
        parts.append(Shape("line", {"class": "mean", "x1": _n(mean), "y1": y - 8, "x2": _n(mean), "y2": y + 8}))
    said = [f"{label}: {_spread(seeds)}" for label, seeds in rows]
    return _chart(metric, caption, said, height, parts)


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers that take in a range.

    Args:
        low: its lower end.
        high: its upper end.
        about: how many are wanted; two more at most, and those that take the ends in.
    """
    if high <= low:
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    raw = (high - low) / (about + 2)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(step * power for step in (1, 2, 5, 10) if step * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


def _spread(values: Sequence[float]) -> str:
    return mean_and_std(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def _tick(value: float, among: Sequence[float]) -> str:
    step = among[1] - among[0]
    if step >= 1000:
        return f"{value / 1000:g}k" if value else "0"
    return f"{round(value, 9) + 0.0:.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"


def _chart(name: str, caption: str, words: Sequence[str], height: float, shapes: list[Shape]) -> Chart:
    return Chart(caption, f"{name}. {'; '.join(words)}", _n(WIDTH), _n(height), shapes)


def _ends(curves: Sequence[Curve]) -> Iterator[str]:
    for curve in curves:
        spread = f" ({curve.low[-1]:.3g} to {curve.high[-1]:.3g})" if curve.runs > 1 else ""
        yield f"{curve.label} ends at {curve.mean[-1]:.3g}{spread}"


def _marker(number: int, x: float, y: float) -> Shape:
    """A distinct shape for each line."""
    shapes = (
        None,
        "M-3.5-3.5h7v7h-7Z",
        "M0-4.5L4.3 3H-4.3Z",
        "M0-5L5 0L0 5L-5 0Z",
        "M0 4.5L4.3-3H-4.3Z",
        "M-1.3-4h2.6v2.7h2.7v2.6h-2.7v2.7h-2.6v-2.7h-2.7v-2.6h2.7Z",
        "M-4.5-2h9v4h-9Z",
        "M-2-4.5h4v9h-4Z",
    )
    name = f"marker s{number}"
    shape = shapes[number % len(shapes)]
    if shape is None:
        return Shape("circle", {"class": name, "cx": _n(x), "cy": _n(y), "r": 3.7})
    return Shape("path", {"class": name, "d": shape, "transform": f"translate({_n(x)} {_n(y)})"})


def _text(x: float, y: float, text: str, anchor: str, name: str | None = None) -> Shape:
    kind = {} if name is None else {"class": name}
    return Shape("text", {"x": _n(x), "y": _n(y), "text-anchor": anchor, **kind}, text)


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{_n(x)} {_n(y)}" for x, y in points)


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
