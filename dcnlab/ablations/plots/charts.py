"""Line charts of the report as shapes of SVG, and their legend; lines differ in colour and in marker."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dcnlab.ablations.plots.chart_shapes import Shape, marker, path_through, short, text_at, tick_text, ticks

LINES = 8
"""Maximum of rows in a chart, each with a colour and a marker."""

WIDTH, HEIGHT = 360.0, 230.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 42.0, 10.0, 10.0, 36.0
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
    return chart(name, caption, list(_ends([curve for _, curve in present])), HEIGHT, parts)


def chart(name: str, caption: str, words: Sequence[str], height: float, shapes: list[Shape]) -> Chart:
    """A chart of these shapes.

    Args:
        name: what it shows, for screen readers.
        caption: of the figure.
        words: the text of each row, for screen readers.
        height: pixels.
        shapes: the first drawn first.
    """
    return Chart(caption, f"{name}. {'; '.join(words)}", short(WIDTH), short(height), shapes)


def _ends(curves: Sequence[Curve]) -> Iterator[str]:
    for curve in curves:
        spread = f" ({curve.low[-1]:.3g} to {curve.high[-1]:.3g})" if curve.runs > 1 else ""
        yield f"{curve.label} ends at {curve.mean[-1]:.3g}{spread}"
