"""Student's t: the interval of a mean difference, and how many pairs show a difference."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Sequence

import numpy as np

LEVEL = 0.05
"""Two-sided: intervals hold the true value in 95% of cases, and a p below it counts as significant."""
POWER = 0.8
"""The probability with which `pairs_needed` pairs show a true difference."""
_NODES = 400
_REACH = 12.0
"""The chi distribution ends this far from its mode: its standard deviation is below 0.71."""


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95% interval of the mean of paired differences; None for fewer than two.

    Args:
        values: a difference for each seed, normal by assumption.
    """
    if len(values) < 2:
        return None
    mean = statistics.fmean(values)
    half = critical(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return mean - half, mean + half


def pairs_needed(std: float, difference: float = 1.0) -> int:
    """The number of pairs whose two-sided paired t test at 5% shows a difference with 80% power.

    Args:
        std: of the paired differences.
        difference: the true one, not 0, in the unit of `std`.
    """
    if std == 0:
        return 2
    effect = abs(difference) / std
    z = statistics.NormalDist().inv_cdf
    normal = (z(1 - LEVEL / 2) + z(POWER)) / effect  # its square is too few: the std is estimated too
    pairs = max(2, math.floor(normal**2))
    while power(pairs, effect) < POWER:
        pairs += 1
    return pairs


def power(pairs: int, effect: float) -> float:
    """The probability that the two-sided paired t test of so many pairs has a p below 5%.

    Args:
        pairs: at least two.
        effect: the true difference, in standard deviations of the paired differences.
    """
    shift, limit = effect * math.sqrt(pairs), critical(pairs - 1)
    return tail(limit, pairs - 1, shift) + tail(limit, pairs - 1, -shift)


@functools.cache
def critical(df: int) -> float:
    """The value that |t| of so many degrees of freedom exceeds in 5% of cases."""
    low, high = 0.0, 13.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if tail(middle, df) > LEVEL / 2 else (low, middle)
    return (low + high) / 2


def tail(x: float, df: int, shift: float = 0.0) -> float:
    """The probability that (Z + shift) / sqrt(V / df) exceeds x, with Z normal and V chi-squared: noncentral t.

    Args:
        x: the limit.
        df: degrees of freedom.
        shift: the noncentrality; 0 for Student's own t.
    """
    points, masses = _chi(df)
    z = (shift - x * points / math.sqrt(df)) / math.sqrt(2)
    return float(sum(mass * math.erfc(-value) for mass, value in zip(masses, z.tolist(), strict=True)) / 2)


@functools.lru_cache(maxsize=64)
def _chi(df: int) -> tuple[np.ndarray, list[float]]:
    """Points and masses that integrate over the chi distribution: Gauss-Legendre nodes around its mode."""
    mode = math.sqrt(df - 1)
    low, high = max(0.0, mode - _REACH), mode + _REACH
    nodes, weights = _gauss()
    points = low + (high - low) * (nodes + 1) / 2
    log_density = (df - 1) * np.log(points) - points**2 / 2 - (df / 2 - 1) * math.log(2) - math.lgamma(df / 2)
    return points, (weights * (high - low) / 2 * np.exp(log_density)).tolist()


@functools.cache
def _gauss() -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.legendre.leggauss(_NODES)
