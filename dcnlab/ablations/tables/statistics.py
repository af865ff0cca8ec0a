"""Mean, standard deviation and a paired sign-flip test over seeds, with Holm's correction for several rows."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dcnlab.ablations.tables.student import LEVEL

_EXACT = 20
_DRAWS = 100_000


@dataclass(frozen=True)
class Spread:
    """One metric of one row, over its seeds."""

    mean: float | None
    std: float | None
    """n - 1 below the root; None for fewer than two seeds."""
    difference: float | None
    """Of the means, to the base row; None without a base row, and for the base row itself."""
    differences: dict[int, float] = field(default_factory=dict)
    """By seed, for seeds that both rows have."""
    p: float | None = None
    """Of the paired test over those seeds; None for fewer than two."""


def spread(values: Mapping[int, float], base: Mapping[int, float] | None = None) -> Spread:
    """Mean, standard deviation and comparison of a metric's values.

    Args:
        values: by seed.
        base: values of the base row by seed; None: this row is not compared.
    """
    own_mean = mean(list(values.values()))
    std = statistics.stdev(values.values()) if len(values) > 1 else None
    base_mean = mean(list(base.values())) if base else None
    if base is None or own_mean is None or base_mean is None:
        return Spread(own_mean, std, None)
    paired = {seed: values[seed] - base[seed] for seed in values if seed in base}
    p = sign_flip(list(paired.values())) if len(paired) > 1 else None
    return Spread(own_mean, std, own_mean - base_mean, paired, p)


def mean(values: Sequence[float | None]) -> float | None:
    """The mean of the values that are not None; equal values stay as they are, so that integers stay integers."""
    present = [value for value in values if value is not None]
    if not present:
        return None
    if all(value == present[0] for value in present):
        return present[0]
    return statistics.fmean(present)


def rank(mean: float | None, goal: str) -> tuple[bool, float]:
    """A key that sorts means, the best first and None last.

    Args:
        mean: of a row; None where it has no run.
        goal: maximize or minimize.
    """
    if mean is None:
        return True, 0.0
    return False, mean if goal == "minimize" else -mean


def sign_flip(differences: Sequence[float]) -> float:
    """Two-sided p of paired differences by the sign-flip permutation test (Fisher's randomization test).

    Without an effect, each seed's difference could equally have the other sign. So p is the fraction of all sign
    assignments whose sum is at least as far from zero as the observed sum. No distribution is assumed. Up to twenty
    pairs the test is exact; beyond, a fixed seed draws a hundred thousand assignments.

    Args:
        differences: one for each seed.
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.size == 0:
        raise ValueError("sign_flip needs at least one difference")
    if values.size <= _EXACT:
        sums = np.zeros(1)
        for difference in values:
            sums = np.concatenate([sums + difference, sums - difference])
    else:
        sums = np.append(_drawn_signs(values.size).astype(np.float64) @ values, values.sum())
    seen = abs(values.sum())
    rounding = 1e-12 * np.abs(values).sum()
    return float(np.mean(np.abs(sums) >= seen - rounding))


@functools.lru_cache(maxsize=1)
def _drawn_signs(pairs: int) -> NDArray[np.int8]:
    """Random sign assignments, (`_DRAWS`, pairs): all rows and metrics of a table have mostly the same number."""
    return np.random.default_rng(0).choice((-1.0, 1.0), size=(_DRAWS, pairs)).astype(np.int8)


def can_be_significant(pairs: int) -> bool:
    """Whether the test over so many pairs has a p below `LEVEL` at all: the smallest possible one is 2 / 2**pairs."""
    return pairs > 0 and 2.0 / 2**pairs < LEVEL


def holm(ps: Sequence[float]) -> list[float]:
    """The p of several tests, corrected by Holm's step-down method for their number.

    Where none of the tested effects exists, the probability that any corrected p is below 5% is at most 5%.

    Args:
        ps: uncorrected, in any order.
    """
    corrected = [0.0] * len(ps)
    highest = 0.0
    for tested, at in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        highest = max(highest, min(1.0, (len(ps) - tested) * ps[at]))
        corrected[at] = highest
    return corrected
