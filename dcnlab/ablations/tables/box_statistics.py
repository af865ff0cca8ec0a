"""Statistics of boxes' effective dilation: of a run, for each draw of the test images; their intervals over runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dcnlab.ablations.tables import bootstrap, student
from dcnlab.ablations.tables.bootstrap import DRAWS, image_counts
from dcnlab.metrics.box_dilation import BoxDilation


class Interval(NamedTuple):
    """A mean over runs with its 95% interval and the two-sided p of zero."""

    estimate: float
    low: float
    high: float
    p: float


def interval(drawn: np.ndarray) -> Interval | None:
    """The mean of a statistic over seeds, with the outer bounds of two intervals; None where it is undefined.

    The intervals are those of `dcnlab table`: a bootstrap of seeds and whole images, and Student's t over seeds. Over
    few seeds the bootstrap is too narrow, and Student's t knows nothing of the images. p is the larger of the two. Of
    one seed there is only the bootstrap over images.

    Args:
        drawn: (seeds, 1 + `DRAWS`), the first column of the whole test set, the others of the draws of the images.
            NaN: undefined for these images; such draws are left out.
    """
    whole = drawn[:, 0].tolist()
    means = drawn[0, 1:] if len(drawn) == 1 else bootstrap.means(drawn[:, 1:])
    means = means[~np.isnan(means)]
    estimate = float(np.mean(whole))
    if np.isnan(estimate) or means.size < DRAWS / 2:
        return None
    low, high = bootstrap.percentiles(means)
    beyond = min(int((means <= 0).sum()), int((means >= 0).sum()))
    p = min(1.0, 2 * (1 + beyond) / (1 + means.size))
    t = student.interval(whole)
    if t is not None:
        low, high, p = min(low, t[0]), max(high, t[1]), max(p, student.p_of_zero(whole))
    return Interval(estimate, low, high, p)


def slopes(run: BoxDilation, layer: int) -> tuple[np.ndarray, np.ndarray]:
    """Least-squares slopes against log2(area), in the boxes' images and in others, of the same boxes.

    Returns:
        (1 + `DRAWS`,) each, in units of the layer's own dilation for each doubling of the area.
    """
    real, moved = run.real[layer] / run.plain[layer], run.moved[layer] / run.plain[layer]
    kept = ~np.isnan(real) & ~np.isnan(moved) & (run.area > 0)
    x = np.log2(run.area[kept])
    x = x - (x.mean() if x.size else 0)
    return _slope(run, kept, x, real[kept]), _slope(run, kept, x, moved[kept])


def deeper(run: BoxDilation, layer: int) -> np.ndarray:
    """Mean over boxes of a layer minus the layer before, each in units of the layer's dilation: (1 + `DRAWS`,)."""
    gain = run.real[layer] / run.plain[layer] - run.real[layer - 1] / run.plain[layer - 1]
    return mean(run, gain, ~np.isnan(gain))


def above_background(run: BoxDilation, layer: int, kept: np.ndarray) -> np.ndarray:
    """Mean over some boxes minus the background of their images, in units of the layer's dilation: (1 + `DRAWS`,).

    Args:
        run: of one seed.
        layer: number.
        kept: (B,) whether a box counts.
    """
    gain = (run.real[layer] - run.background[layer][run.image]) / run.plain[layer]
    return mean(run, gain, kept & ~np.isnan(gain))


def mean(run: BoxDilation, values: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Mean of some boxes' values for each draw of the images: (1 + `DRAWS`,); NaN without a box."""
    count, total = _drawn_sums(run, kept, [np.ones(kept.sum()), values[kept]])
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(count > 0, total / count, np.nan)


def _slope(run: BoxDilation, kept: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    count, sx, sy, sxx, sxy = _drawn_sums(run, kept, [np.ones_like(x), x, y, x * x, x * y])
    with np.errstate(divide="ignore", invalid="ignore"):
        below = count * sxx - sx**2
        return np.where(below > 1e-9 * count**2, (count * sxy - sx * sy) / below, np.nan)


def _drawn_sums(run: BoxDilation, kept: np.ndarray, terms: Sequence[np.ndarray]) -> np.ndarray:
    """Sums of some terms of the boxes for each draw of whole images: (terms, 1 + `DRAWS`)."""
    images = run.background.shape[1]
    by_image = np.array([np.bincount(run.image[kept], term, images) for term in terms])
    return by_image @ image_counts(images).T
