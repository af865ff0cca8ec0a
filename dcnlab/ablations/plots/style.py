"""The style of all plots: colours, markers, sizes of text, and how a figure becomes a file."""

from __future__ import annotations

import io
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

RED, GREEN, YELLOW = "#e8000b", "#00d000", "#ffd400"
"""Over an image: sampling points and bins, the unit that looks, the RoI."""

TITLE, TEXT = 11, 9
"""Sizes of text, points."""


def series(number: int) -> dict[str, Any]:
    """Colour and marker of a line, by its number from 0: keyword arguments of matplotlib's `plot`."""
    return {"color": f"C{number % 10}", "marker": "osD^vP"[number % 6], "markersize": 4}


def text(words: str) -> str:
    """Words as matplotlib shows them, without formulas."""
    return words.replace("$", r"\$")


def encode(figure: Figure, ending: str) -> bytes:
    """The figure as a file's content; png, pdf or svg. Figures drawn alike give the same bytes."""
    file = io.BytesIO()
    undated = {"png": {"Software": None}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}[ending]
    with rc_context({"svg.hashsalt": "dcnlab", "pdf.fonttype": 42}):
        figure.savefig(file, format=ending, dpi=170, bbox_inches="tight", pad_inches=0.08, metadata=undated)
    return file.getvalue()
