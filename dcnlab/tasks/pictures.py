"""Pictures as people see them: their size on the screen, rows with titles and a legend, grids, PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

GAP, ROW = 6, 18  # pixels between pictures, and a line of text
LARGEST = 2048
"""Longer side of a picture in a panel, pixels: a strip is enlarged no further, and a larger image is made smaller."""


def to_picture(image: Tensor, mean: Sequence[float], std: Sequence[float]) -> Image.Image:
    """An image of a network's input, (3, H, W) normalised, as people see it."""
    numbers = image.detach().float().cpu() * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]
    return Image.fromarray((numbers.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())


def shown_size(height: int, width: int, min_side: int) -> tuple[int, int]:
    """Width and height at which an image is drawn: a whole number of times its own, or smaller where that is large.

    Args:
        height: of the image, pixels.
        width: likewise.
        min_side: pixels that the shorter side should have, where the longer stays within `LARGEST`.
    """
    longer = max(height, width)
    zoom = min(LARGEST / longer, max(1, min(round(min_side / min(height, width)), LARGEST // longer)))
    return max(1, round(width * zoom)), max(1, round(height * zoom))


def side_by_side(
    pictures: Sequence[Image.Image], titles: Sequence[str], legend: Sequence[tuple[str, tuple[int, ...]]]
) -> Image.Image:
    """Titled pictures in a row, and a legend of coloured names that takes as many lines as it needs."""
    font = ImageFont.load_default(13)
    width = sum(picture.width + GAP for picture in pictures) + GAP
    lines: list[list[tuple[str, tuple[int, ...], int]]] = [[]]
    x = GAP
    for name, colour in legend:
        room = round(font.getlength(name)) + 30
        if lines[-1] and x + room > width:
            lines.append([])
            x = GAP
        lines[-1].append((name, colour, x))
        x += room
    height = ROW + max(picture.height for picture in pictures) + (GAP + ROW * len(lines) if legend else 0) + GAP
    sheet = Image.new("RGB", (width, height), (245, 245, 245))
    draw = ImageDraw.Draw(sheet)
    x = GAP
    for picture, title in zip(pictures, titles, strict=True):
        draw.text((x, 1), title, fill=(0, 0, 0), font=font)
        sheet.paste(picture, (x, ROW))
        x += picture.width + GAP
    y = height - GAP - ROW * len(lines)
    for line in lines if legend else []:
        for name, colour, x in line:
            draw.rectangle((x, y + 3, x + 12, y + 15), fill=colour, outline=(90, 90, 90))
            draw.text((x + 17, y + 1), name, fill=(0, 0, 0), font=font)
        y += ROW
    return sheet


def grid(pictures: Sequence[Image.Image], columns: int) -> Image.Image:
    """Pictures in rows, each column as wide and each row as high as its largest picture."""
    rows = [pictures[first : first + columns] for first in range(0, len(pictures), columns)]
    widths = [max(picture.width for picture in pictures[at::columns]) for at in range(len(rows[0]))]
    heights = [max(picture.height for picture in row) for row in rows]
    sheet = Image.new("RGB", (sum(widths), sum(heights)), (245, 245, 245))
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        sheet.paste(picture, (sum(widths[:column]), sum(heights[:row])))
    return sheet


def png(picture: Image.Image) -> bytes:
    """A picture as the content of a PNG file."""
    content = io.BytesIO()
    picture.save(content, "png")
    return content.getvalue()
