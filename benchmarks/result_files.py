"""Results of benchmarks as pages need them: read from their files, next to their goals, with their machine."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from tabulate import tabulate

RESULTS = Path(__file__).resolve().parent / "results"


VERSIONS = ("torch", "torchvision", "numba")


LISTED = 4
"""Most measurements to name that were left out."""


Result = dict[str, Any]


Text = TypeVar("Text")


class Unreadable(Exception):
    """A file holds something else than its benchmark writes; the message is one line."""


def path_of(name: str) -> str:
    """A result's file as the pages name it."""
    return f"benchmarks/results/{name}_cpu.json"


def load(name: str) -> Result | None:
    """A benchmark's result; null where it has not been measured.

    Raises:
        Unreadable: the file is not such a result.
    """
    try:
        result = json.loads((RESULTS / f"{name}_cpu.json").read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        why = str(error).partition("\n")[0]
        raise Unreadable(f"{path_of(name)} cannot be read: {why}; make bench writes it anew") from None
    if not isinstance(result, dict) or result.get("schema") != 1 or not result.get("rows"):
        raise Unreadable(f"{path_of(name)} is not a result of schema 1 with rows; make bench writes it anew")
    return result


def drawn(name: str, text: Callable[[Result], Text]) -> Text | None:
    """What `text` makes of a benchmark's result; null where it has not been measured.

    Raises:
        Unreadable: the result lacks something, or holds something of another kind.
    """
    result = load(name)
    try:
        return None if result is None else text(result)
    except KeyError as error:
        raise Unreadable(f"{path_of(name)} lacks {error}; make bench writes it anew") from None
    except (AttributeError, TypeError, ValueError, ZeroDivisionError) as error:
        raise Unreadable(f"{path_of(name)} holds what is not a result: {error}; make bench writes it anew") from None


def section(name: str, text: Callable[[Result], str]) -> str:
    """A part of the page, or a line that it has not been measured yet."""
    return drawn(name, text) or not_yet(name)


def not_yet(name: str) -> str:
    """The line of a part that has not been measured."""
    return f"{NAMES[name]}: not measured yet; `make bench` writes `{path_of(name)}`."


class Goals:
    """Puts figures beside their goals, and counts."""

    def __init__(self) -> None:
        self.asked = self.missed = 0

    def cell(self, value: float | None, form: str, most: float | None = None, least: float | None = None) -> str:
        """The figure; bold, closer and with its goal in brackets where it missed it. Null is an empty cell."""
        if value is None:
            return ""
        if most is None and least is None:
            return form.format(value)
        self.asked += 1
        if (most is None or value <= most) and (least is None or value >= least):
            return form.format(value)
        self.missed += 1
        goal = f"≥ {least:g}" if most is None else f"≤ {most:g}"
        return f"**{value:.3g}** ({goal})"

    def line(self) -> str:
        """How many were met."""
        met = f"{self.asked - self.missed} of {self.asked} figures meet their goals"
        return f"{met}; bold ones miss those in brackets." if self.missed else f"{met}."


def measured_on(result: Result, name: str, packages: Iterable[str] = ()) -> str:
    """The machine, the day, the versions and the file, and what had to be left out."""
    machine, left_out = result["machine"], result["settings"].get("left_out")
    threads = f"{machine['threads']} thread{'s' if machine['threads'] != 1 else ''}"
    versions = ", ".join(f"{package} {machine[package]}" for package in packages)
    line = f"{machine['device']}, {threads}, {machine['date']}{', ' + versions if versions else ''}; `{path_of(name)}`."
    if not left_out:
        return line
    names = ", ".join(left_out) if len(left_out) <= LISTED else f"{len(left_out)} measurements"
    return f"{line} Left out for lack of time: {names}."


NAMES = {
    "operators": "Operators",
    "depthwise": "Depthwise",
    "roi_pooling": "RoI pooling",
    "networks": "Networks",
    "growth": "Growth",
    "feeding": "Data",
    "scoring": "Scoring",
    "startup": "Start-up",
}


NETWORKS = {"deeplab": "DeepLab", "rfcn": "R-FCN"}


def markdown(head: list[str], lines: list[list[str]]) -> str:
    """A table in Markdown."""
    return tabulate(lines, head, tablefmt="github", disable_numparse=True)


def listed(words: Iterable[str]) -> str:
    """Two words or more as people list them: `a, b and c`."""
    *rest, last = words
    return f"{', '.join(rest)} and {last}"
