"""Shapes of SVG that the report's charts are made of: markers, texts, paths, and ticks of an axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple


class Shape(NamedTuple):
    """An element of SVG."""

    tag: str
    attributes: dict[str, str | float]
    text: str = ""


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers that cover a range.

    Args:
        low: its lower end.
        high: its upper end.
        about: wanted number of ticks; there are at most two more, and those beyond the ends.
    """
    if high <= low:
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    raw = (high - low) / (about + 2)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(step * power for step in (1, 2, 5, 10) if step * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


def tick_text(value: float, among: Sequence[float]) -> str:
    """The text of a tick, with as many decimals as the distance of the ticks needs."""
    step = among[1] - among[0]
    if step >= 1000:
        return f"{value / 1000:g}k" if value else "0"
    return f"{round(value, 9) + 0.0:.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"


def marker(number: int, x: float, y: float) -> Shape:
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
        return Shape("circle", {"class": name, "cx": short(x), "cy": short(y), "r": 3.7})
    return Shape("path", {"class": name, "d": shape, "transform": f"translate({short(x)} {short(y)})"})


def text_at(x: float, y: float, text: str, anchor: str, name: str | None = None) -> Shape:
    """A text at a point; `anchor` is start, middle or end, and `name` its class in the style sheet."""
    kind = {} if name is None else {"class": name}
    return Shape("text", {"x": short(x), "y": short(y), "text-anchor": anchor, **kind}, text)


def path_through(points: Sequence[tuple[float, float]]) -> str:
    """The `d` of a path of straight lines through points (x, y)."""
    return "M" + "L".join(f"{short(x)} {short(y)}" for x, y in points)


def short(value: float) -> str:
    """A coordinate with at most one decimal."""
    return f"{value:.1f}".removesuffix(".0")
