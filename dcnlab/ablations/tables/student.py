"""Student's t: the interval of a mean difference, and how many pairs show a difference."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from scipy import special

LEVEL = 0.05
"""Two-sided: intervals hold the true value in 95% of cases, and a p below it counts as significant."""
POWER = 0.8
"""The probability with which `pairs_needed` pairs show a true difference."""


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


def p_of_zero(values: Sequence[float]) -> float:
    """Two-sided p of the hypothesis that the mean is zero.

    Args:
        values: one for each seed, at least two, normal by assumption.
    """
    mean, std = statistics.fmean(values), statistics.stdev(values)
    if std == 0:
        return 1.0 if mean == 0 else 0.0
    return 2 * tail(abs(mean) * math.sqrt(len(values)) / std, len(values) - 1, 0.0)


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


def critical(df: int) -> float:
    """The value that |t| of so many degrees of freedom exceeds in 5% of cases."""
    return float(special.stdtrit(df, 1 - LEVEL / 2))


def tail(x: float, df: int, shift: float) -> float:
    """The probability that a noncentral t variable exceeds x.

    Args:
        x: the limit.
        df: degrees of freedom.
        shift: the noncentrality.
    """
    return float(1 - special.nctdtr(df, shift, x))
