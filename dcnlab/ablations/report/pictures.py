"""Pictures of runs, made small and put into the page itself."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

LARGEST = 640
"""Longer side in the page, pixels."""

BUDGET = 6_000_000
"""Bytes of all pictures in the page."""


@dataclass
class Picture:
    """One picture in the page."""

    source: Path
    uri: str
    width: int
    height: int


class Album:
    """Pictures of one page, until its budget is spent."""

    def __init__(self, budget: int = BUDGET) -> None:
        self._left = budget

    def take(self, paths: Sequence[Path]) -> tuple[list[Picture], list[str]]:
        """Pictures as data URIs, and what was left out and why.

        Args:
            paths: PNG files.
        """
        from PIL import Image, UnidentifiedImageError

        taken: list[Picture] = []
        left_out: list[str] = []
        for path in paths:
            if self._left <= 0:
                left_out.append(f"{path}: the page is full")
                continue
            try:
                with Image.open(path) as image:
                    small = image.convert("RGB")
            except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
                left_out.append(f"{path}: {' '.join(str(error).split())}")
                continue
            small.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
            stream = io.BytesIO()
            small.save(stream, "WEBP", quality=82, method=4)
            data = base64.b64encode(stream.getvalue()).decode()
            self._left -= len(data)
            taken.append(Picture(path, f"data:image/webp;base64,{data}", *small.size))
        return taken, left_out
