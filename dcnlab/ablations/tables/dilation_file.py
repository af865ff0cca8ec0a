"""The dilation.json of a run folder: its form, checked as it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from dcnlab.io import json_file
from dcnlab.io.errors import ConfigError
from dcnlab.io.text import one_line
from dcnlab.metrics.dilation_sizes import SIZES
from dcnlab.training import results_file

FILE = "dilation.json"
CELL = ("mean", "std", "count")
"""The numbers of one layer and size."""


class Measured(NamedTuple):
    """What `dcnlab dilation` wrote."""

    layers: list[dict[str, Any]]
    """The last layer of the network first: `layer`, and for each size None or a mapping of `CELL`."""
    images: int | None
    """How many were measured; None where the file does not say."""


def read(folder: Path) -> Measured | None:
    """The dilation.json of a run folder; None where it has none.

    Raises:
        ConfigError: it is not what `dcnlab dilation` writes.
    """
    path = folder / FILE
    try:
        tree = json_file.load(path, results_file.MAX_BYTES)
        json_file.check_depth(tree)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: not JSON ({one_line(error)}); measure it again") from error
    layers, images = (tree.get("rows"), tree.get("images")) if isinstance(tree, dict) else (None, None)
    if not isinstance(layers, list) or not all(map(_is_layer, layers)) or not isinstance(images, int | None):
        raise ConfigError(f"{path}: not what dcnlab dilation writes; measure it again")
    return Measured(layers, images)


def _is_layer(line: Any) -> bool:
    if not isinstance(line, dict) or not isinstance(line.get("layer"), str):
        return False
    cells = [line[size] for size in SIZES if line.get(size)]
    return set(SIZES) <= set(line) and all(isinstance(cell, dict) and _is_cell(cell) for cell in cells)


def _is_cell(cell: dict[str, Any]) -> bool:
    numbers = [cell.get(key) for key in CELL]
    return set(CELL) <= set(cell) and all(
        value is None or (type(value) in (int, float) and -1e300 < value < 1e300) for value in numbers
    )
