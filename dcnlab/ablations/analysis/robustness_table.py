"""Curves of robustness as people see them: tables, and a figure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dcnlab.ablations.numbers import mean_and_std
from dcnlab.ablations.tables.block import Block
from dcnlab.ablations.tables.row_names import row_names


@dataclass
class Robustness:
    """Curves at full precision."""

    title: str
    rows: list[dict[str, Any]]
    """The settings; change, rotation or scale; amount, degrees or factor; top1, top1_std, top1_difference to the first
    group's at the same amount; seeds, seeds_wanted."""
    labels: list[str]
    """A short name of each group, in the order of the rows."""
    base: str
    """Settings of the first group if several are varied; else empty."""
    notes: list[str]


def labels_of(settings: Sequence[dict[str, Any]]) -> tuple[list[str], str]:
    """A short name of each group, as in tables, and the settings of the first where several are varied."""

    def in_words(pairs: dict[str, Any]) -> str:
        return ", ".join(f"{key.rpartition('.')[2]} {json.dumps(value).strip(chr(34))}" for key, value in pairs.items())

    first = settings[0]
    if list(first) == ["run"]:
        return [group["run"] for group in settings], ""
    if not first:
        return ["all"] * len(settings), ""
    return row_names(list(first), settings), in_words(first) if len(first) > 1 else ""


def blocks(robustness: Robustness) -> list[Block]:
    """Tables for people: one for rotations and one for scales, with a row for each group."""
    tables = []
    for change, what, unit in (("rotation", "rotation of the test images", "°"), ("scale", "their magnification", "x")):
        amounts, lines = _rows_of(robustness, change)
        if amounts:
            caption = f"{robustness.title}: top1 (%) against {what}" + (
                f"; {robustness.labels[0]}: {robustness.base}" if robustness.base else ""
            )
            cells = [
                [label + _missing_seeds(line[0]), *(mean_and_std(row["top1"], row["top1_std"], 1) for row in line)]
                for label, line in zip(robustness.labels, lines, strict=True)
            ]
            tables.append(Block(caption, ["", *(f"{amount:g}{unit}" for amount in amounts)], cells))
    return tables


def _missing_seeds(row: dict[str, Any]) -> str:
    """A mark after the label of a group that lacks seeds."""
    return f" ({row['seeds']} of {row['seeds_wanted']} seeds!)" if row["seeds"] < row["seeds_wanted"] else ""


def _rows_of(robustness: Robustness, change: str) -> tuple[list[float], list[list[dict[str, Any]]]]:
    """The amounts of a change, and for each group its rows at these amounts."""
    rows = [row for row in robustness.rows if row["change"] == change]
    count = len(robustness.labels)
    return [row["amount"] for row in rows[::count]], [rows[at::count] for at in range(count)]


def draw(robustness: Robustness) -> bytes:
    """The curves as a PNG, a panel for each change that was measured."""
    from dcnlab.ablations.plots import robustness_curves

    axes = {"rotation": "rotation of the test image (degrees)", "scale": "magnification of the test image"}
    panels = [robustness_curves.Panel(change, axis, *_rows_of(robustness, change)) for change, axis in axes.items()]
    return robustness_curves.draw(robustness.title, robustness.labels, [panel for panel in panels if panel.amounts])
