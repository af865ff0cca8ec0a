"""Numbers as people read them: a mean and its spread, and cells that may be empty."""

from __future__ import annotations

import math

MISSING = "missing"
"""The cell of a row without a run."""


def mean_and_std(mean: float | None, std: float | None = None, digits: int = 2, missing: str = MISSING) -> str:
    """A mean with its standard deviation, such as `73.00 ± 3.61`.

    Args:
        mean: None where there is no value.
        std: None for a single value; the text is then the mean alone.
        digits: behind the point, of both.
        missing: the text without a mean.
    """
    if mean is None:
        return missing
    return f"{mean:.{digits}f}" if std is None else f"{mean:.{digits}f} ± {std:.{digits}f}"


def number(value: float | None, form: str, mark: str = "") -> str:
    """A number in a format such as `+.2f`, with a mark behind it; empty for None."""
    return "" if value is None else f"{value:{form}}{mark}"


def with_interval(estimate: float, low: float, high: float) -> str:
    """An estimate and its interval, such as `+0.0123 [+0.0045, +0.0201]`, with two digits of the half width.

    At least two digits are behind the point. An interval below a millionth is in powers of ten.
    """
    scale = (high - low) / 2 or abs(estimate)
    if 0 < scale < 1e-6:
        form = "+.2e"
    else:
        form = f"+.{max(2, 1 - math.floor(math.log10(scale)) if scale else 2)}f"
    return f"{estimate:{form}} [{low:{form}}, {high:{form}}]"
