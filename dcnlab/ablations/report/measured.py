"""What other commands left in a run folder, checked before it is shown."""

from __future__ import annotations

import math
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from dcnlab.ablations.tables import render
from dcnlab.io import json_file
from dcnlab.io.text import one_line
from dcnlab.io.yaml_file import read_yaml
from dcnlab.training import results_file

SIZES = ("small", "medium", "large", "background")
"""What the centre of a filter lies on."""


class Dilation(NamedTuple):
    """A run's effective dilation beside the paper's, as people read it."""

    said: str
    header: list[str]
    lines: list[list[str]]


def dilation(folder: Path) -> Dilation | None:
    """A run's dilation.json, each layer beside the paper's of the same place from the end; None where it has none.

    Raises:
        ValueError: it is not what `dcnlab dilation` writes.
    """
    path = folder / "dilation.json"
    tree = _read(path)
    if tree is None:
        return None
    paper = read_yaml(Path(render.__file__).with_name("published.yaml"))["table2"]
    theirs = [[row["layer"], *("{:.1f} ± {:.1f}".format(*row[size]) for size in SIZES)] for row in paper["rows"]]
    try:
        ours = [[str(row["layer"]), *(_cell(row[size]) for size in SIZES)] for row in tree["rows"]]
        images = f"{tree['images']} images; " if "images" in tree else ""
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path}: not what dcnlab dilation writes") from error
    lines = [[*own, *other] for own, other in zip_longest(ours, theirs[: len(ours)], fillvalue=[""] * 5)]
    header = ["layer", *SIZES, "paper's layer", *(f"paper: {size}" for size in SIZES)]
    return Dilation(f"{images}the paper's table 2 is of {paper['data']}", header, lines)


def robustness(folder: Path, kind: str) -> tuple[str, dict[float, float]] | None:
    """The metric and the course of a run's robustness.json; None where it has none.

    Args:
        folder: the run's.
        kind: rotation, by degrees, or scale, by factor.

    Raises:
        ValueError: it is not of that form.
    """
    path = folder / "robustness.json"
    tree = _read(path)
    if tree is None:
        return None
    try:
        course = {float(x): float(y) for x, y in tree[kind]}
        if not all(map(math.isfinite, (*course, *course.values()))):
            raise ValueError("a number that is none")
        return str(tree["metric"]), course
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path}: not a metric with pairs of {kind} and percent") from error


def _read(path: Path) -> Any:
    try:
        tree = json_file.load(path, results_file.MAX_BYTES)
        json_file.check_depth(tree)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not JSON ({one_line(error)})") from error
    return tree


def _cell(cell: dict[str, Any] | None) -> str:
    if cell is None or cell["mean"] is None:
        return "–"
    return f"{cell['mean']:.2f}" if cell["std"] is None else f"{cell['mean']:.2f} ± {cell['std']:.2f}"
