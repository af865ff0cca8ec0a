"""The sizes of objects that the effective dilation is stated for; free of torch, because tables read them too."""

from __future__ import annotations

SIZES = ("small", "medium", "large", "background")
"""Size of the object under a filter's centre; `effective_dilation.size_of_positions` returns positions in this list."""

SIDES = (96.0, 224.0)
"""Sides of the squares, in pixels, that part small from medium and medium from large boxes."""
