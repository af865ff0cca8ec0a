"""Draws boxes in bright colours with outlined labels that do not cover each other."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from dcnlab.io.text import visible

Colour = tuple[int, int, int]
_Area = tuple[float, float, float, float]

_BRIGHT: tuple[Colour, ...] = (
    *((255, 85, 85), (70, 170, 255), (255, 210, 50), (70, 220, 100), (255, 125, 215), (255, 155, 45)),
    *((55, 225, 215), (180, 140, 255), (195, 235, 60), (230, 230, 230)),
)
"""Of the first classes; all are bright enough for black text, and stand out from dark photographs."""
_GOLDEN = 0.618034
_DARK: Colour = (0, 0, 0)
_LABEL, _PADDING = 16, 4  # height of a label, and pixels of its width in addition to the text
_LONGEST_NAME = 60


def class_colours(classes: Sequence[str]) -> list[Colour]:
    """A bright colour for each class; a class named background is black.

    Args:
        classes: names in the order of their labels.
    """
    colours: list[Colour] = []
    for name in classes:
        if name.lower() == "background":
            colours.append(_DARK)
            continue
        number = sum(colour != _DARK for colour in colours)
        if number < len(_BRIGHT):
            colours.append(_BRIGHT[number])
            continue
        hue, saturation = number * _GOLDEN % 1, (0.75, 0.45)[number % 2]
        red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(hue, saturation, 1.0))
        colours.append((red, green, blue))
    return colours


def short_name(name: str) -> str:
    """A class's name as a picture has room for it, without characters that the font lacks."""
    text = visible(name)
    return text if len(text) <= _LONGEST_NAME else f"{text[: _LONGEST_NAME - 1]}…"


def draw_boxes(
    picture: Image.Image,
    corners: Sequence[Sequence[float]],
    labels: Sequence[int],
    scores: Sequence[float | None],
    classes: Sequence[str],
    min_score: float,
) -> list[int]:
    """Draw boxes with their names into a picture, the best on top.

    A label stands above its box, else inside or below it; one without a free place is left out, as the colour tells.

    Args:
        picture: to draw into.
        corners: x1, y1, x2, y2 of each box, pixels.
        labels: of each box, 1..C.
        scores: likewise, the best first; None for annotated boxes.
        classes: names of the labels 1..C.
        min_score: boxes of a lower score are not drawn.

    Returns:
        Labels of the boxes drawn.
    """
    draw, font, colours = ImageDraw.Draw(picture), ImageFont.load_default(13), class_colours(classes)
    boxes = [item for item in zip(corners, labels, scores, strict=True) if item[2] is None or item[2] >= min_score]
    for (x1, y1, x2, y2), label, _ in boxes[::-1]:
        outer = (x1, y1, max(x1, x2 - 1), max(y1, y2 - 1))
        draw.rectangle((outer[0] - 1, outer[1] - 1, outer[2] + 1, outer[3] + 1), outline=_DARK, width=4)
        draw.rectangle(outer, outline=colours[label - 1], width=2)
    taken: list[_Area] = []
    for box, label, score in boxes:
        name = short_name(classes[label - 1]) + ("" if score is None else f" {score:.2f}")
        place = _free_place(box, font.getlength(name) + _PADDING, picture.size, taken)
        if place is None:
            continue
        taken.append(place)
        draw.rectangle(place, fill=colours[label - 1], outline=_DARK)
        draw.text((place[0] + _PADDING // 2, place[1]), name, fill=_DARK, font=font)
    return [label for _, label, _ in boxes]


def _free_place(box: Sequence[float], width: float, size: tuple[int, int], taken: Sequence[_Area]) -> _Area | None:
    """The first place of a label inside the picture that covers no other label; None: all are taken."""
    x1, y1, x2, y2 = box
    lefts = [max(0.0, min(left, size[0] - 1 - width)) for left in (x1, x2 - width)]
    tops = [max(0.0, min(top, size[1] - 1.0 - _LABEL)) for top in (y1 - _LABEL, y2, y1, y2 - _LABEL)]
    for top in tops:
        for left in lefts:
            place = (left, top, left + width, top + _LABEL)
            if all(not _overlap(place, other) for other in taken):
                return place
    return None


def _overlap(one: _Area, other: _Area) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
