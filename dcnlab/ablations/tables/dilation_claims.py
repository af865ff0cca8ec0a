"""Tests of table 2's claims: effective dilation by box size, by depth and against the background."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from dcnlab.ablations.numbers import number, with_interval
from dcnlab.ablations.tables.box_statistics import above_background, deeper, interval, slopes
from dcnlab.ablations.tables.comparison import NO_CONCLUSION
from dcnlab.ablations.tables.render import Block
from dcnlab.ablations.tables.statistics import holm
from dcnlab.ablations.tables.student import LEVEL
from dcnlab.io.errors import ConfigError
from dcnlab.metrics.box_dilation import BoxDilation
from dcnlab.metrics.dilation_sizes import SIDES

CAPTION = (
    "Claims of table 2, in units of the layer's own dilation. size: slope against log2(box area); null: the same on "
    "other images; excess: size minus null. depth: layer minus the one before"
)
NOT_JUDGED = ("size", "null")
"""Claims without a verdict: the excess, which is their difference, is judged."""
SEEDS = 3
"""The smallest number of seeds that allows a verdict."""
_MIN_IMAGES = 10
"""Fewer images with boxes of a size give no honest interval."""


def rows(runs: Sequence[BoxDilation]) -> list[dict[str, Any]]:
    """The claims' rows of each layer.

    size is the slope of a box's mean dilation against its area. null is the slope of the same boxes on other images.
    A slope that the null has too comes from where boxes lie, and does not show that filters adapt to objects. So the
    verdict on size is that of excess, size minus null. depth is the difference to the layer before. In the paper's
    table background is above medium and below large: `background - medium` and `large - background` take each box
    and the background in the same image; a size that fewer than ten images hold is left out.

    The interval is `box_statistics.interval`'s. p is corrected by Holm over all rows with a verdict, since the claims
    are read together.

    Args:
        runs: of different seeds, of the same network and the same test images.

    Returns:
        `claim`, `layer`, `seeds`, `estimate`, `low`, `high`; `p`, `p_holm`, and `verdict`: for, against or no
        conclusion, which it always is with fewer than `SEEDS` seeds. These three are None for size and null.

    Raises:
        ConfigError: the runs differ in layers or boxes, or there are too few boxes for an interval.
    """
    _check_alike(runs)
    lines: list[dict[str, Any]] = []
    for claim, layer, drawn in _statistics(runs):
        estimate = interval(drawn)
        if estimate is None:
            raise ConfigError(f"{layer} has too few boxes with filters in them, or of too few sizes, for an interval")
        lines.append({"claim": claim, "layer": layer, "seeds": len(runs), **estimate._asdict()})
    for row in lines:
        row |= {"p_holm": None, "verdict": None} | ({"p": None} if row["claim"] in NOT_JUDGED else {})
    judged = [row for row in lines if row["p"] is not None]
    for row, corrected in zip(judged, holm([row["p"] for row in judged]), strict=True):
        row |= {"p_holm": corrected, "verdict": _verdict(row["low"], row["high"], corrected, len(runs))}
    return lines


def block(lines: Sequence[dict[str, Any]]) -> Block:
    """The rows of `rows` as people read them."""
    header = ["claim", "layer", "estimate [low, high]", "p (Holm)", "verdict"]
    cells = [
        [
            row["claim"],
            row["layer"],
            with_interval(row["estimate"], row["low"], row["high"]),
            number(row["p_holm"], ".4f"),
            row["verdict"] or "",
        ]
        for row in lines
    ]
    return Block(CAPTION, header, cells)


def notes(lines: Sequence[dict[str, Any]]) -> list[str]:
    """What the intervals of `rows` cover, and what their verdicts allow to conclude."""
    seeds = lines[0]["seeds"]
    if seeds == 1:
        over = "95% intervals: bootstrap of whole test images; they do not cover what another seed would give"
    else:
        over = (
            "[low, high]: the outer bounds of two 95% intervals, a bootstrap over seeds and whole test images and "
            f"Student's t over {seeds} seeds"
        )
    told = [over, "size is judged by excess: a slope that boxes have on other images too does not count"]
    if seeds < SEEDS:
        told.append(f"{NO_CONCLUSION} with fewer than {SEEDS} seeds; add measured runs of other seeds with --with RUN")
    else:
        told.append("p: the larger of the bootstrap's and Student's, by Holm over all rows with a verdict")
    if not any("background" in row["claim"] for row in lines):
        low, high = (f"{side:g}" for side in SIDES)
        told.append(
            f"no row on background: fewer than {_MIN_IMAGES} images hold boxes from {low}x{low} pixels of the file on, "
            f"or from {high}x{high} on"
        )
    return told


def _check_alike(runs: Sequence[BoxDilation]) -> None:
    first = runs[0]
    for run in runs[1:]:
        same = (
            run.layers.tolist() == first.layers.tolist()
            and run.background.shape == first.background.shape
            and np.array_equal(run.area, first.area)
            and np.array_equal(run.image, first.image)
        )
        if not same:
            raise ConfigError("the runs differ in layers, test images or boxes; compare runs that differ in seed alone")


def _statistics(runs: Sequence[BoxDilation]) -> Iterator[tuple[str, str, np.ndarray]]:
    """Claim, layer, and the runs' statistics as `interval` takes them."""
    layers = runs[0].layers.tolist()
    both = [np.array([slopes(run, at) for run in runs]) for at in range(len(layers))]
    for claim, weights in (("size", (1, 0)), ("null", (0, 1)), ("excess", (1, -1))):
        for layer, drawn in zip(layers, both, strict=True):
            yield claim, layer, weights[0] * drawn[:, 0] + weights[1] * drawn[:, 1]
    for at, layer in enumerate(layers[1:], 1):
        yield "depth", layer, np.array([deeper(run, at) for run in runs])
    sides = np.sqrt(runs[0].area)
    medium, large = (sides >= SIDES[0]) & (sides <= SIDES[1]), sides > SIDES[1]
    for claim, sign, kept in (("background - medium", -1, medium), ("large - background", 1, large)):
        for at, layer in enumerate(layers):
            defined = kept & ~np.isnan(runs[0].real[at] - runs[0].background[at][runs[0].image])
            if len(np.unique(runs[0].image[defined])) >= _MIN_IMAGES:
                yield claim, layer, sign * np.array([above_background(run, at, kept) for run in runs])


def _verdict(low: float, high: float, p: float, seeds: int) -> str:
    if seeds < SEEDS or low <= 0 <= high or p >= LEVEL:
        return NO_CONCLUSION
    return "for" if low > 0 else "against"
