"""Mean, standard deviation and a paired test over seeds, against the row that a table compares with."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

LEVEL = 0.05
"""What a test's p must be below to count as significant, before any correction for several comparisons."""
_EXACT = 20
_DRAWS = 100_000


@dataclass(frozen=True)
class Spread:
    """One metric of one row, over its seeds."""

    mean: float | None
    std: float | None
    """n - 1 below the root; None for fewer than two seeds."""
    difference: float | None
    """Of the means, to the row that the table compares with; None without that row, and for that row itself."""
    differences: dict[int, float] = field(default_factory=dict)
    """By seed, of the seeds that both rows have."""
    p: float | None = None
    """Of the paired test over those seeds; None for fewer than two."""


def spread(values: Mapping[int, float], base: Mapping[int, float] | None = None) -> Spread:
    """Mean, standard deviation and comparison of a metric's values.

    Args:
        values: by seed.
        base: the same of the row to compare with; None: of this row nothing is compared.
    """
    own = mean(list(values.values()))
    std = statistics.stdev(values.values()) if len(values) > 1 else None
    other = mean(list(base.values())) if base else None
    if base is None or own is None or other is None:
        return Spread(own, std, None)
    paired = {seed: values[seed] - base[seed] for seed in values if seed in base}
    p = sign_flip(list(paired.values())) if len(paired) > 1 else None
    return Spread(own, std, own - other, paired, p)


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

    Were there no effect, each seed's difference might as well have had the other sign: p is the fraction of all sign
    assignments whose sum is at least as far from zero as the one that was seen. No distribution is assumed. Exact up
    to twenty pairs; of more, a hundred thousand assignments are drawn, the same ones every time.

    Args:
        differences: one a seed.
    """
    found = np.asarray(differences, dtype=np.float64)
    if found.size == 0:
        raise ValueError("sign_flip needs at least one difference")
    if found.size <= _EXACT:
        sums = np.zeros(1)
        for difference in found:
            sums = np.concatenate([sums + difference, sums - difference])
    else:
        signs = np.random.default_rng(0).choice((-1.0, 1.0), size=(_DRAWS, found.size))
        sums = np.append(signs @ found, found.sum())
    seen = abs(found.sum())
    rounding = 1e-12 * np.abs(found).sum()
    return float(np.mean(np.abs(sums) >= seen - rounding))


def can_be_significant(pairs: int) -> bool:
    """Whether the test over so many pairs has a p below `LEVEL` at all: the smallest possible one is 2 / 2**pairs."""
    return pairs > 0 and 2.0 / 2**pairs < LEVEL
