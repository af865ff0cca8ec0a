"""Output of commands, and the overrides that many of them take."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from dcnlab.config.overrides import repeated
from dcnlab.io.text import say

Allow = Annotated[
    list[str] | None,
    typer.Option(
        metavar="MODULE",
        help="Module outside dcnlab that the run may import, or a class in it, MODULE:CLASS.",
        show_default=False,
    ),
]


def note_repeated(words: list[str] | None) -> list[str] | None:
    """Note keys that a command line sets to several values, of which the last one counts.

    A wandb agent writes a sweep's parameters before the words of the sweep's own command, which may overrule them.
    """
    if not os.environ.get("WANDB_SWEEP_ID"):
        for key, values in repeated(words or []).items():
            say(f"note: {key} is set {len(values)} times, {', '.join(values)}: the last one counts", file=sys.stderr)
    return words


def print_once(text: object) -> None:
    """Print lines on rank 0 only."""
    from dcnlab.training.distributed.rank import is_rank_0

    if is_rank_0():
        say(text, block=True)


Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", show_default=False, callback=note_repeated)
]


def print_notes(notes: Sequence[str]) -> None:
    """Print notes on a result, to standard error."""
    for note in notes:
        say(f"note: {note}", file=sys.stderr)


def print_blocks(rows: Any, blocks: Any, form: str) -> None:
    """Print a table in the form that `--format` names, see `dcnlab.ablations.tables.render`."""
    from dcnlab.ablations.tables import render

    if form == "rich":
        render.show(blocks)
    else:
        say(render.render(rows, blocks, form), block=True)
