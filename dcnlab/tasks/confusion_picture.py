"""Draws a confusion matrix: colours by the fraction of a row, percentages where they fit, names of the classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from dcnlab.metrics.confusion import Confusion
from dcnlab.tasks.box_drawing import short_name

ZOOM = 2
"""Pixels of the picture for one of a page, so that it is sharp on fine screens and in print."""
MOST_CLASSES = 200
"""Of more classes no picture is drawn: it would be larger than a screen shows legibly."""
_CELLS = ((12, 44, 15), (25, 32, 12), (50, 22, 9), (MOST_CLASSES, 15, 0))
"""Up to so many classes: side of a cell, and height of its percentage, 0 for none; pixels of a page."""
_NAME, _TITLE, _GAP, _BAR = 12, 14, 10, 14
_LONGEST_NAME = 28
_INK, _SOFT, _PAPER, _ABSENT = (25, 28, 33), (95, 102, 112), (255, 255, 255), (232, 232, 232)
_LIGHT, _DARK = np.array([239.0, 243.0, 250.0]), np.array([8.0, 58.0, 122.0])
_MARKS = (0.0, 0.01, 0.1, 0.5, 1.0)


@dataclass(frozen=True)
class Layout:
    """Where the parts of the picture are, in its pixels."""

    left: int
    top: int
    cell: int
    text: int
    """Height of a percentage, 0 for none."""
    upright: bool
    """Whether the names of the columns stand upright, because they are wider than a cell."""
    size: tuple[int, int]


def colour(fraction: float) -> tuple[int, int, int]:
    """From nearly white at 0 to dark blue at 1, by the square root, so that a hundredth is seen; grey for nan."""
    if math.isnan(fraction):
        return _ABSENT
    red, green, blue = (_LIGHT + math.sqrt(fraction) * (_DARK - _LIGHT)).round().astype(int).tolist()
    return red, green, blue


def percentage(fraction: float) -> str:
    """What a cell says: whole percent, <1 for what rounds to 0, nothing for 0 or nan."""
    if math.isnan(fraction) or fraction == 0:
        return ""
    words = f"{100 * fraction:.0f}"
    return "<1" if words == "0" else words


def names_of(confusion: Confusion) -> list[str]:
    """The names of the classes as the picture has room for them."""
    names = [short_name(name) for name in confusion.classes]
    return [name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…" for name in names]


def layout(confusion: Confusion) -> Layout:
    """Where the parts of the picture are."""
    classes, names, font = len(confusion.classes), names_of(confusion), _font(_NAME)
    _, cell, text = next(row for row in _CELLS if classes <= row[0])
    longest = math.ceil(max(font.getlength(name) for name in names))
    upright = longest > ZOOM * (cell - 4)
    column_names = longest if upright else ZOOM * _NAME
    left = ZOOM * (2 * _GAP + _TITLE + 6) + longest
    top = ZOOM * (4 * _GAP + 2 * _TITLE) + column_names
    totals = math.ceil(max(font.getlength(total) for total in _totals(confusion)))
    right = ZOOM * (2 * _GAP) + totals + ZOOM * (_BAR + 5 * _GAP)
    title = math.ceil(_font(_TITLE).getlength(_title(confusion))) + ZOOM * 2 * _GAP
    width = max(left + ZOOM * classes * cell + right, title)
    height = top + max(ZOOM * classes * cell, ZOOM * 120) + ZOOM * 2 * _GAP
    return Layout(left, top, ZOOM * cell, ZOOM * text, upright, (width, height))


def draw(confusion: Confusion) -> Image.Image | None:
    """The picture; None for more than `MOST_CLASSES`."""
    if len(confusion.classes) > MOST_CLASSES:
        return None
    place = layout(confusion)
    sheet = Image.new("RGB", place.size, _PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((ZOOM * _GAP, ZOOM * _GAP), _title(confusion), _INK, _font(_TITLE))
    _draw_cells(pen, place, confusion.fractions())
    _draw_names(sheet, pen, place, confusion)
    _draw_bar(pen, place, len(confusion.classes))
    return sheet


def _draw_cells(pen: ImageDraw.ImageDraw, place: Layout, fractions: NDArray[np.float64]) -> None:
    for row, values in enumerate(fractions.tolist()):
        for column, fraction in enumerate(values):
            x, y = place.left + column * place.cell, place.top + row * place.cell
            pen.rectangle((x, y, x + place.cell - ZOOM // 2, y + place.cell - ZOOM // 2), colour(fraction))
            words = percentage(fraction) if place.text else ""
            if words:
                ink = _PAPER if fraction > 0.3 else _INK
                middle = (x + place.cell / 2, y + place.cell / 2)
                pen.text(middle, words, ink, _font(place.text // ZOOM), anchor="mm")


def _draw_names(sheet: Image.Image, pen: ImageDraw.ImageDraw, place: Layout, confusion: Confusion) -> None:
    names, font, half = names_of(confusion), _font(_NAME), place.cell / 2
    side = place.cell * len(names)
    gap = ZOOM * 4
    for at, (name, total) in enumerate(zip(names, _totals(confusion), strict=True)):
        y = place.top + at * place.cell + half
        pen.text((place.left - gap, y), name, _INK, font, anchor="rm")
        pen.text((place.left + side + gap, y), total, _SOFT, font, anchor="lm")
        x = place.left + at * place.cell + half
        if place.upright:
            _draw_upright(sheet, name, (round(x), place.top - gap), _INK, bottom=True)
        else:
            pen.text((x, place.top - gap), name, _INK, font, anchor="mb")
    heading = place.top - gap - (_widest(names) if place.upright else ZOOM * _NAME) - ZOOM * _GAP // 2
    pen.text((place.left + side / 2, heading), "found as", _SOFT, font, anchor="mb")
    pen.text((place.left + side + gap, place.top - gap), confusion.unit, _SOFT, font, anchor="lb")
    _draw_upright(sheet, "labelled", (ZOOM * (_GAP + _NAME // 2), place.top + side // 2), _SOFT)


def _draw_upright(
    sheet: Image.Image, words: str, at: tuple[int, int], ink: tuple[int, int, int], bottom: bool = False
) -> None:
    """Words that read from bottom to top; centred on a point, or with their beginning there."""
    font = _font(_NAME)
    mask = Image.new("L", (math.ceil(font.getlength(words)) + 1, ZOOM * (_NAME + 5)))
    ImageDraw.Draw(mask).text((0, mask.height / 2), words, 255, font, anchor="lm")
    mask = mask.transpose(Image.Transpose.ROTATE_90)
    top = at[1] - (mask.height if bottom else mask.height // 2)
    sheet.paste(ink, (at[0] - mask.width // 2, top), mask)


def _draw_bar(pen: ImageDraw.ImageDraw, place: Layout, classes: int) -> None:
    """The scale of the colours, next to the matrix."""
    left = place.size[0] - ZOOM * (_BAR + 4 * _GAP)
    height = max(ZOOM * 110, min(classes * place.cell, ZOOM * 260))
    for y in range(height):
        pen.line((left, place.top + y, left + ZOOM * _BAR, place.top + y), colour((1 - y / (height - 1)) ** 2))
    for mark in _MARKS:
        level = place.top + (1 - math.sqrt(mark)) * (height - 1)
        pen.text((left + ZOOM * (_BAR + 4), level), f"{100 * mark:.0f}%", _SOFT, _font(_NAME - 2), anchor="lm")


def _title(confusion: Confusion) -> str:
    right, total = int(confusion.counts.diagonal().sum()), int(confusion.counts.sum())
    share = f", {100 * right / total:.1f}% right" if total else ""
    return f"Percent of each class's {confusion.unit}{share}"


def _totals(confusion: Confusion) -> list[str]:
    """The sum of each row; large ones in thousands or millions."""
    return [_short_count(int(total)) for total in confusion.counts.sum(1)]


def _short_count(number: int) -> str:
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= 10 * size:
            return f"{number / size:.0f}{letter}"
    return str(number)


def _widest(names: Sequence[str]) -> int:
    return math.ceil(max(_font(_NAME).getlength(name) for name in names))


@cache
def _font(height: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font at a height in pixels of a page."""
    return ImageFont.load_default(ZOOM * height)
