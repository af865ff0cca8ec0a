"""Pictures of runs, scaled down and embedded in the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dcnlab.ablations.report.contents import Row

LARGEST = 640
"""Longer side in the page, pixels."""

BUDGET = 8_000_000
"""Bytes of all pictures in the page."""

_OF_A_RUN = 4
_NAMED = 8
"""Pictures that are left out and named; further ones are counted."""


class Picture(NamedTuple):
    """One picture in the page."""

    uri: str
    width: int
    height: int


class PictureRow(NamedTuple):
    """One picture of several runs."""

    title: str
    pictures: list[tuple[str, str, Picture]]
    """Label, description and content of each."""


class Pictures(NamedTuple):
    """The pictures of a table's runs, and notes on those left out."""

    albums: list[PictureRow]
    notes: list[str]


class Album:
    """The pictures of one page, until its budget is spent."""

    def __init__(self, budget: int = BUDGET) -> None:
        self._left = budget

    def take(self, path: Path, largest: int = LARGEST, drawn: bool = False) -> Picture:
        """A PNG as a data URI.

        Args:
            path: of the file.
            largest: longer side in the page, pixels; a larger picture is made smaller.
            drawn: whether it is a drawing with text, at two pixels for one of the page, and not a photograph.

        Raises:
            ValueError: the page is full, or the file is not a picture.
        """
        from PIL import Image

        from dcnlab.io.image_file import read_image

        if self._left <= 0:
            raise ValueError("the page is full")
        try:
            small = read_image(path)
        except ValueError as error:
            raise ValueError(f"no picture: {error}") from error
        small.thumbnail((largest, largest), Image.Resampling.LANCZOS)
        stream = io.BytesIO()
        small.save(stream, "WEBP", quality=82, method=4, lossless=drawn)
        data = base64.b64encode(stream.getvalue()).decode()
        self._left -= len(data)
        width, height = (side // 2 for side in small.size) if drawn else small.size
        return Picture(f"data:image/webp;base64,{data}", width, height)


def names_in(folder: Path) -> list[str]:
    """Names of the pictures in a folder of a run, the shortest first; a confusion matrix has another section."""
    names = {path.name for path in folder.glob("*.png")} - {"confusion.png"}
    return sorted(names, key=lambda name: (len(name), name))


def of_rows(rows: Sequence[Row], album: Album) -> Pictures:
    """The pictures of the first run of each row, those of one name next to each other.

    Args:
        rows: those that the page has room for.
        album: takes them until it is full.
    """
    albums: list[PictureRow] = []
    left_out: list[str] = []
    for folder in ("pictures", "figures"):
        by_name: dict[str, list[tuple[Row, Path]]] = {}
        for row in rows:
            for name in names_in(row.records[0].folder / folder) if row.records else ():
                by_name.setdefault(name, []).append((row, row.records[0].folder / folder / name))
        names = sorted(by_name, key=lambda name: (len(name), name))
        for name in names[:_OF_A_RUN]:
            picture_row = PictureRow(f"{folder}/{name}", [])
            for row, path in by_name[name]:
                try:
                    picture = album.take(path)
                except ValueError as error:
                    left_out.append(f"{path}: {error}")
                    continue
                described = f"{folder}/{name} of {row.label}, seed {row.records[0].seed}"
                picture_row.pictures.append((row.label, described, picture))
            albums += [picture_row] if picture_row.pictures else []
        left_out += [f"{folder}/{name} of every run" for name in names[_OF_A_RUN:]]
    more = [f"and {len(left_out) - _NAMED} more"] if left_out[_NAMED:] else []
    return Pictures(albums, [f"left out: {line}" for line in [*left_out[:_NAMED], *more]])
