"""Renders scores as tables or as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from dcnlab.io.text import markdown, visible

FORMATS = ("text", "markdown", "json")
_NAMED = 20
"""Classes without a score that are named; the rest are counted."""


def render(scores: Mapping[str, float], form: str) -> str:
    """Render scores for people or programs.

    Args:
        scores: percent; of the whole under METRIC, of a class under METRIC/CLASS.
        form: text or markdown, two tables with two decimals, `-` for nan; json, full precision, null for nan.
            If means leave classes out, a line between the tables names them, or in json the key `mean_over`.
    """
    known, left_out = _covered(scores)
    if form == "json":
        content: dict[str, Any] = {key: None if math.isnan(value) else value for key, value in scores.items()}
        content |= {"mean_over": {"classes": known, "left_out": left_out}} if left_out else {}
        return json.dumps(content, indent=2)
    whole = {key: value for key, value in scores.items() if "/" not in key}
    each: dict[str, dict[str, float]] = {}
    for key, value in scores.items():
        metric, slash, name = key.partition("/")
        if slash:
            each.setdefault(name, {})[metric] = value
    columns = list(dict.fromkeys(metric for row in each.values() for metric in row))
    blocks = [_grid(["metric", "%"], [[key, _cell(value)] for key, value in whole.items()], form)]
    if left_out:
        note = _note(known, left_out, "iou" in columns)
        blocks.append(markdown(note) if form == "markdown" else visible(note))
    if each:
        lines = [[name, *(_cell(row[metric]) for metric in columns)] for name, row in each.items()]
        blocks.append(_grid(["class", *(f"{metric} (%)" for metric in columns)], lines, form))
    return "\n\n".join(blocks)


def _covered(scores: Mapping[str, float]) -> tuple[list[str], list[str]]:
    """Classes that the means include, and those that they leave out because they have no score."""
    each: dict[str, bool] = {}
    for key, value in scores.items():
        _, slash, name = key.partition("/")
        if slash:
            each[name] = each.get(name, False) or not math.isnan(value)
    return [name for name, known in each.items() if known], [name for name, known in each.items() if not known]


def _note(known: Sequence[str], left_out: Sequence[str], pixels: bool) -> str:
    """State which classes the means cover; of many that are left out, name the first ones and count the rest."""
    more = f" and {len(left_out) - _NAMED} more" if len(left_out) > _NAMED else ""
    where = "in neither labels nor predictions" if pixels else "without an object to find"
    names = f"{', '.join(left_out[:_NAMED])}{more}"
    if not known:
        return f"There is no mean: all {len(left_out)} classes are {where}."
    return f"Means are over {len(known)} of {len(known) + len(left_out)} classes; {where}: {names}."


def _cell(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def _grid(header: Sequence[str], lines: Sequence[Sequence[str]], form: str) -> str:
    from tabulate import tabulate

    style, safe = {"text": ("simple", visible), "markdown": ("pipe", markdown)}[form]
    aligned = ["left", *["right"] * (len(header) - 1)]
    header, lines = [safe(name) for name in header], [[safe(cell) for cell in line] for line in lines]
    return tabulate(lines, header, tablefmt=style, disable_numparse=True, colalign=aligned)
