"""The robustness.json of a run folder: measured curves, checked as they are read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dcnlab.config.experiment_files import read_parameters
from dcnlab.io.errors import ConfigError

FILE = "robustness.json"
"""In a run folder: its measured curves; in the folder --out: the rows of the table."""


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
        if (tree["schema"], tree["metric"]) != (1, "top1"):
            raise ValueError(f"schema {tree['schema']}, metric {tree['metric']}")
        curves = Curves(
            *({float(at): float(percent) for at, percent in tree[change]} for change in ("rotation", "scale"))
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: not what dcnlab robustness writes ({error}); remove it") from error
    return curves
