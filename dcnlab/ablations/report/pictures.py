"""Pictures of runs, made small and put into the page itself."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import NamedTuple

LARGEST = 640
"""Longer side in the page, pixels."""

BUDGET = 8_000_000
"""Bytes of all pictures in the page."""


class Picture(NamedTuple):
    """One picture in the page."""

    uri: str
    width: int
    height: int


class Album:
    """The pictures of one page, until its budget is spent."""

    def __init__(self, budget: int = BUDGET) -> None:
        self._left = budget

    def take(self, path: Path) -> Picture:
        """A PNG as a data URI, no larger than `LARGEST`.

        Raises:
            ValueError: the page is full, or the file is no picture.
        """
        from PIL import Image

        from dcnlab.io.image_file import read_image

        if self._left <= 0:
            raise ValueError("the page is full")
        try:
            small = read_image(path)
        except ValueError as error:
            raise ValueError(f"no picture: {error}") from error
        small.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
        stream = io.BytesIO()
        small.save(stream, "WEBP", quality=82, method=4)
        data = base64.b64encode(stream.getvalue()).decode()
        self._left -= len(data)
        return Picture(f"data:image/webp;base64,{data}", *small.size)
