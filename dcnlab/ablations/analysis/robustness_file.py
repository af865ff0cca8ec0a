"""The robustness.json of a run folder: measured curves, checked as they are read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from dcnlab.config.experiment_files import read_parameters
from dcnlab.io.errors import ConfigError
from dcnlab.io.text import one_line

FILE = "robustness.json"
"""In a run folder: its measured curves; in the folder --out: the rows of the table."""
METRIC = "top1"
"""What the curves show."""


@dataclass
class Curves:
    """Top-1 of one run, percent."""

    rotation: dict[float, float]
    """By degrees, at a magnification of 1."""
    scale: dict[float, float]
    """By factor, without rotation."""


def read(folder: Path) -> Curves | None:
    """The curves in a run folder, or None where it has none.

    Raises:
        ConfigError: its file is not what `measure` writes.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    tree = read_parameters(path)
    try:
        if (tree["schema"], tree["metric"]) != (1, METRIC):
            raise ValueError(f"schema {tree['schema']}, metric {tree['metric']}")
        return Curves(_curve(tree["rotation"]), _curve(tree["scale"]))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        expected = "not a metric with pairs of rotation and percent, and of scale and percent"
        raise ConfigError(f"{path}: {expected} ({one_line(error)}); remove it") from error


def _curve(pairs: list[tuple[float, float]]) -> dict[float, float]:
    """A curve of its pairs of angle or factor and percent.

    Raises:
        ValueError: a number is not finite.
    """
    curve = {float(at): float(percent) for at, percent in pairs}
    if not all(map(math.isfinite, (*curve, *curve.values()))):
        raise ValueError("not finite")
    return curve
