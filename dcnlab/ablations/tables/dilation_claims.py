"""Tests of table 2's claims: effective dilation grows with box size and with depth; intervals clustered by image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dcnlab.ablations.numbers import number
from dcnlab.ablations.tables.bootstrap import DRAWS, image_counts, seed_counts
from dcnlab.ablations.tables.render import Block
from dcnlab.ablations.tables.statistics import holm
from dcnlab.ablations.tables.student import LEVEL
from dcnlab.io.errors import ConfigError
from dcnlab.metrics.box_dilation import BoxDilation

CAPTION = (
    "Claims of table 2, in units of the layer's own dilation. size: slope against log2(box area); null: boxes laid on "
    "other images. depth: layer minus the one before, mean over boxes"
)


def rows(runs: Sequence[BoxDilation]) -> list[dict[str, Any]]:
    """The claims' rows: size, null and excess (size minus null) of each layer, and depth of each pair of layers.

    Whole images and, for several runs, seeds are drawn again. p is the bootstrap's, by Holm over the layers.

    Args:
        runs: of different seeds, of the same network and the same test images.

    Returns:
        `claim`, `layer`, `estimate`, `low`, `high`, `p`, `p_holm`, `verdict`: for, against or no conclusion; None for
        null, which is not a claim.

    Raises:
        ConfigError: the runs differ in layers or boxes, or fewer than two images or box areas can be compared.
    """
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
    families: dict[str, list[tuple[str, np.ndarray]]] = {"size": [], "null": [], "excess": [], "depth": []}
    for at, layer in enumerate(first.layers.tolist()):
        slopes = np.array([_slopes(run, at) for run in runs])
        families["size"].append((layer, slopes[:, 0]))
        families["null"].append((layer, slopes[:, 1]))
        families["excess"].append((layer, slopes[:, 0] - slopes[:, 1]))
        if at:
            families["depth"].append((layer, np.array([_deeper(run, at) for run in runs])))
    return [row for claim, members in families.items() for row in _family(claim, members)]


def block(lines: Sequence[dict[str, Any]]) -> Block:
    """The rows of `rows` as people read them."""
    header = ["claim", "layer", "estimate [low, high]", "p (Holm)", "verdict"]
    cells = [
        [
            row["claim"],
            row["layer"],
            f"{row['estimate']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]",
            number(row["p_holm"], ".4f"),
            row["verdict"] or "",
        ]
        for row in lines
    ]
    return Block(CAPTION, header, cells)


def _family(claim: str, members: Sequence[tuple[str, np.ndarray]]) -> list[dict[str, Any]]:
    """Rows of one claim; each member's statistics are (seeds, 1 + DRAWS), the first of the whole test set."""
    family = []
    for layer, drawn in members:
        means = drawn[:, 1:]
        means = means[0] if len(means) == 1 else np.einsum("ds,sd->d", seed_counts(len(means)), means) / len(means)
        means = means[~np.isnan(means)]
        estimate = float(drawn[:, 0].mean())
        if np.isnan(estimate) or means.size < DRAWS / 2:
            raise ConfigError(f"{layer} has too few boxes with filters in them, or of too few sizes, for an interval")
        low, high = (float(end) for end in np.percentile(means, [100 * LEVEL / 2, 100 * (1 - LEVEL / 2)]))
        beyond = min(int((means <= 0).sum()), int((means >= 0).sum()))
        p = min(1.0, 2 * (1 + beyond) / (1 + means.size))
        family.append({"claim": claim, "layer": layer, "estimate": estimate, "low": low, "high": high, "p": p})
    for row, corrected in zip(family, holm([row["p"] for row in family]), strict=True):
        row["p_holm"] = corrected
        row["verdict"] = None if claim == "null" else _verdict(row)
    return family


def _verdict(row: dict[str, Any]) -> str:
    if row["low"] <= 0 <= row["high"] or row["p_holm"] >= LEVEL:
        return "no conclusion"
    return "for" if row["low"] > 0 else "against"


def _slopes(run: BoxDilation, layer: int) -> tuple[np.ndarray, np.ndarray]:
    """Least-squares slopes in the boxes' images and in other images, over the same boxes: (1 + DRAWS,) each."""
    real, moved = run.real[layer] / run.plain[layer], run.moved[layer] / run.plain[layer]
    kept = ~np.isnan(real) & ~np.isnan(moved) & (run.area > 0)
    x = np.log2(run.area[kept])
    x = x - (x.mean() if x.size else 0)
    return _slope(run, kept, x, real[kept]), _slope(run, kept, x, moved[kept])


def _slope(run: BoxDilation, kept: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    count, sx, sy, sxx, sxy = _drawn_sums(run, kept, [np.ones_like(x), x, y, x * x, x * y])
    with np.errstate(divide="ignore", invalid="ignore"):
        below = count * sxx - sx**2
        return np.where(below > 1e-9 * count**2, (count * sxy - sx * sy) / below, np.nan)


def _deeper(run: BoxDilation, layer: int) -> np.ndarray:
    """Mean over boxes of a layer minus the layer before: (1 + DRAWS,)."""
    gain = run.real[layer] / run.plain[layer] - run.real[layer - 1] / run.plain[layer - 1]
    kept = ~np.isnan(gain)
    count, total = _drawn_sums(run, kept, [np.ones(kept.sum()), gain[kept]])
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(count > 0, total / count, np.nan)


def _drawn_sums(run: BoxDilation, kept: np.ndarray, terms: Sequence[np.ndarray]) -> np.ndarray:
    """Sums of some terms of the boxes for each draw of whole images: (terms, 1 + DRAWS)."""
    images = run.background.shape[1]
    by_image = np.array([np.bincount(run.image[kept], term, images) for term in terms])
    return by_image @ image_counts(images).T
