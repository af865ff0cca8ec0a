"""Pictures of classified images, each with a title."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageFont

from dcnlab.tasks.box_drawing import short_name
from dcnlab.tasks.pictures import shown_size, side_by_side


def class_picture(image: Image.Image, name: str, probability: float) -> Image.Image:
    """A photograph with the name of its class above it."""
    return side_by_side([image], [f"{short_name(name)} {probability:.2f}"], [])


def class_panel(pictures: Sequence[tuple[Image.Image, str]]) -> Image.Image:
    """Images in a row, each below its own title.

    Args:
        pictures: images and their titles.
    """
    font = ImageFont.load_default(13)
    drawn, titles = [], []
    for image, title in pictures:
        large = image.resize(shown_size(image.height, image.width, 168), Image.Resampling.BICUBIC)
        room = max(large.width, round(font.getlength(short_name(title))))
        padded = Image.new("RGB", (room, large.height), (245, 245, 245))
        padded.paste(large)
        drawn.append(padded)
        titles.append(short_name(title))
    return side_by_side(drawn, titles, [])
