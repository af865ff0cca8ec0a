"""A two-way percentile bootstrap of a mean difference: seeds and test images are both drawn again."""

from __future__ import annotations

import functools

import numpy as np

from dcnlab.ablations.tables.student import LEVEL

DRAWS = 2000
"""How often seeds and images are drawn."""
_IMAGES, _SEEDS = 1, 2
"""Seeds of the two random generators: the same images are drawn for every run of a table."""


@functools.lru_cache(maxsize=8)
def image_counts(images: int, block: int = 1) -> np.ndarray:
    """How often each draw holds each test image, as (1 + `DRAWS`, images) float64; the first draw holds each once.

    Args:
        images: in the test set, at least one.
        block: consecutive images that are drawn together; the last block may be shorter.
    """
    blocks = -(-images // block)
    counts = np.random.default_rng(_IMAGES).multinomial(blocks, np.full(blocks, 1 / blocks), size=DRAWS)
    counts = np.concatenate([np.ones((1, blocks)), counts])  # float64, which every record multiplies with
    return counts if block == 1 else np.ascontiguousarray(np.repeat(counts, block, axis=1)[:, :images])


@functools.lru_cache(maxsize=64)
def seed_counts(seeds: int) -> np.ndarray:
    """How often each draw holds each seed, as (`DRAWS`, seeds) whole numbers."""
    return np.random.default_rng(_SEEDS).multinomial(seeds, np.full(seeds, 1 / seeds), size=DRAWS)


def interval(differences: np.ndarray) -> tuple[float, float] | None:
    """The 95% percentile interval of the mean over seeds; None for fewer than two seeds, or where nothing is defined.

    Args:
        differences: between two rows: (seeds, `DRAWS`), each column of one draw of the images; or (seeds,) of the
            whole test set, and then only seeds are drawn. NaN: undefined for these images; such draws are left out.
    """
    seeds = len(differences)
    if seeds < 2:
        return None
    by_draw = np.broadcast_to(differences if differences.ndim == 2 else differences[:, None], (seeds, DRAWS))
    drawn = means(by_draw)
    drawn = drawn[~np.isnan(drawn)]
    return percentiles(drawn) if drawn.size else None


def means(by_draw: np.ndarray) -> np.ndarray:
    """The mean over seeds, drawn again, of each draw of the images: (`DRAWS`,).

    Args:
        by_draw: (seeds, `DRAWS`), each column of one draw of the images.
    """
    seeds = len(by_draw)
    return np.einsum("ds,sd->d", seed_counts(seeds), by_draw) / seeds


def percentiles(drawn: np.ndarray) -> tuple[float, float]:
    """The limits that hold 95% of drawn values, none of which is NaN."""
    low, high = np.percentile(drawn, [100 * LEVEL / 2, 100 * (1 - LEVEL / 2)])
    return float(low), float(high)
