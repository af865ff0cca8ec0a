"""`dcnlab list`: the experiments, sweeps, networks and data sets that can be named, one line each."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from dcnlab.config import names, packaged
from dcnlab.config.value_checks import choose
from dcnlab.io.files import read_bytes
from dcnlab.io.text import say

LARGEST = 2**20
"""Bytes of a packaged file, at most."""
COLUMNS = 80
"""Smallest width of a line on a terminal, characters."""
NAME_COLUMN = 28
"""Widest that the column of names gets; a longer name pushes its text to the right."""


def list_names(
    what: Annotated[
        str | None, typer.Argument(metavar="[experiments|sweeps|models|data]", show_default="all four")
    ] = None,
) -> None:
    """List what can be named on the command line: experiments, sweeps, models, data sets."""
    if what is not None:
        choose("WHAT", what, LISTS)
    width = max(COLUMNS, shutil.get_terminal_size().columns) if sys.stdout.isatty() else None
    for kind in LISTS if what is None else (what,):
        heading = [f"{kind}:"] if what is None else []
        say("\n".join(heading + lines(LISTS[kind](), width)), block=True)


def lines(entries: dict[str, str], width: int | None = None) -> list[str]:
    """Lay out names and their texts, one line each.

    Args:
        entries: text by name.
        width: characters that a longer line is cut to, at a word; None cuts none, so that a pipe gets the whole text.
    """
    column = min(NAME_COLUMN, max(map(len, entries), default=0))
    return [_line(name.ljust(column), text, width) for name, text in entries.items()]


def _line(name: str, text: str, width: int | None) -> str:
    if width is not None:
        text = textwrap.shorten(text, width - len(name) - 2, placeholder=" ...", break_on_hyphens=False)
    return f"{name}  {text}"


def experiments() -> dict[str, str]:
    """Packaged experiments that can be trained; files that others extend are left out."""
    files = packaged.names("experiments")
    return {name: _heading("experiments", name) for name in files if not Path(name).name.startswith("base")}


def sweeps() -> dict[str, str]:
    """Packaged sweeps."""
    return {name: _heading("sweeps", name) for name in packaged.names("sweeps")}


def _heading(kind: str, name: str) -> str:
    """The first sentence of the comment that a packaged file begins with."""
    text = read_bytes(packaged.find(kind, name), LARGEST).decode()
    comment = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        comment.append(line.lstrip("# "))
    return re.split(r"[.:] ", " ".join(comment))[0].rstrip(".")


def models() -> dict[str, str]:
    """Networks and the backbones below them, by `model.name` and `model.backbone.name`."""
    networks = {name: _network(network) for name, network in names.NETWORKS.items()}
    backbones = {
        name: "ImageNet's weights" if backbone.imagenet else "no ImageNet weights"
        for name, backbone in names.BACKBONES.items()
    }
    listed = {f"backbone {name}": f"every task; {weights}" for name, weights in backbones.items()}
    return networks | listed | {"backbone [timm:|torchvision:]NAME": "every task; any CNN that gives maps"}


def _network(network: names.Network) -> str:
    options = {
        "deform_pooling": "RoI pooling, plain or deformable",
        "ohem": "OHEM",
        "spatial_transformer": "spatial transformer",
    }
    return "; ".join([network.task, *(text for ability, text in options.items() if getattr(network, ability))])


def data_sets() -> dict[str, str]:
    """Data sets, by `data.name`."""
    return {
        name: data_set.layout or f"{', '.join(data_set.tasks)}; embedded in the package"
        for name, data_set in names.DATA_SETS.items()
    }


LISTS: dict[str, Callable[[], dict[str, str]]] = {
    "experiments": experiments,
    "sweeps": sweeps,
    "models": models,
    "data": data_sets,
}
"""The kinds of names, and the function that lists each."""
