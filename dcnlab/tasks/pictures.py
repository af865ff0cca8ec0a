"""Pictures of predictions in test images, next to the ground truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from dcnlab.io.text import visible

GAP, ROW = 6, 18  # pixels between pictures, and a line of text
LARGEST = 2048
"""Longer side of a picture in a panel, pixels: a strip is enlarged no further, and a larger image is made smaller."""
_LONGEST_NAME = 60


def palette(classes: int) -> NDArray[np.uint8]:
    """Colours of label values, as PASCAL VOC's palette has them: (256, 3), white from `classes` up."""
    colours = np.full((256, 3), 255, np.uint8)
    for label in range(min(classes, 255)):
        value, colour = label, np.zeros(3, np.uint8)
        for bit in range(7, 4, -1):
            colour |= np.array([(value >> channel & 1) << bit for channel in range(3)], np.uint8)
            value >>= 3
        colours[label] = colour
    return colours


def to_picture(image: Tensor, mean: Sequence[float], std: Sequence[float]) -> Image.Image:
    """An image of a network's input, (3, H, W) normalised, as people see it."""
    numbers = image.detach().float().cpu() * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]
    return Image.fromarray((numbers.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())


def segmentation_panel(image: Image.Image, label: Tensor, prediction: Tensor, classes: Sequence[str]) -> Image.Image:
    """Photograph, label and prediction side by side; below them the colours of the classes shown.

    Args:
        image: resized to the label's size.
        label: (H, W), 0 to classes - 1, or 255 where it is not known: white.
        prediction: (H, W), drawn white where the label is not known.
        classes: names in the order of the labels.
    """
    truth, predicted = label.cpu().numpy().astype(np.uint8), prediction.cpu().numpy().astype(np.uint8)
    predicted = np.where(truth == 255, 255, predicted).astype(np.uint8)
    height, width = truth.shape
    size = shown_size(height, width, 168)
    colours = palette(len(classes))
    pictures = [image.resize(size, Image.Resampling.BILINEAR)]
    pictures += [Image.fromarray(colours[map_]).resize(size, Image.Resampling.NEAREST) for map_ in (truth, predicted)]
    seen = sorted((set(np.unique(truth).tolist()) | set(np.unique(predicted).tolist())) - {255})
    names = [(_short(classes[k]), tuple(int(c) for c in colours[k])) for k in seen]
    return _side_by_side(pictures, ["image", "label", "prediction"], names)


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


def _short(name: str) -> str:
    """A class's name as a picture has room for it, without characters that the font lacks."""
    text = visible(name)
    return text if len(text) <= _LONGEST_NAME else f"{text[: _LONGEST_NAME - 1]}…"


def _side_by_side(
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


def detection_panel(
    image: Image.Image,
    target: Mapping[str, Any],
    detections: Mapping[str, Tensor],
    classes: Sequence[str],
    min_score: float = 0.3,
) -> Image.Image:
    """Annotated and detected boxes with their names, side by side.

    Args:
        image: as the network saw it.
        target: `boxes` (n, 4) in its pixels, `labels` (n,) 1..C.
        detections: likewise, with `scores` (n,).
        classes: names of the labels 1..C.
        min_score: detections of a lower score are not drawn.
    """
    large = image.resize(shown_size(image.height, image.width, 336), Image.Resampling.BILINEAR)
    zoom = torch.tensor([large.width / image.width, large.height / image.height] * 2)
    pictures = []
    for boxes in (target, detections):
        picture = large.copy()
        scores = boxes["scores"].tolist() if "scores" in boxes else [None] * len(boxes["labels"])
        corners = (boxes["boxes"].float().cpu() * zoom).tolist()
        _draw_boxes(picture, corners, boxes["labels"].tolist(), scores, classes, min_score)
        pictures.append(picture)
    return _side_by_side(pictures, ["annotated", f"found, score {min_score:g} or more"], [])


def _draw_boxes(
    picture: Image.Image,
    corners: Sequence[Sequence[float]],
    labels: Sequence[int],
    scores: Sequence[float | None],
    classes: Sequence[str],
    min_score: float,
) -> None:
    """Draw boxes with their names into a picture, the best last, on top."""
    draw, font, colours = ImageDraw.Draw(picture), ImageFont.load_default(13), palette(len(classes) + 1)
    for (x1, y1, x2, y2), label, score in list(zip(corners, labels, scores, strict=True))[::-1]:
        if score is not None and score < min_score:
            continue
        colour = tuple(int(part) for part in colours[label])
        name = _short(classes[label - 1]) + ("" if score is None else f" {score:.2f}")
        draw.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=colour, width=2)
        top = max(0.0, y1 - 16)
        draw.rectangle((x1, top, x1 + font.getlength(name) + 4, top + 16), fill=colour)
        draw.text((x1 + 2, top), name, fill=(255, 255, 255), font=font)


def box_picture(
    image: Image.Image, boxes: Tensor, labels: Tensor, scores: Tensor, classes: Sequence[str], min_score: float
) -> Image.Image:
    """A photograph with the boxes found in it; see `detection_panel` for the arguments."""
    picture = image.copy()
    _draw_boxes(picture, boxes.tolist(), labels.tolist(), scores.tolist(), classes, min_score)
    return picture


def label_picture(image: Image.Image, labels: Tensor, classes: Sequence[str]) -> Image.Image:
    """A photograph under half-transparent colours of its pixels' classes; below it the colours' names.

    Args:
        image: of the labels' size.
        labels: (H, W), 0 to classes - 1.
        classes: names in the order of the labels.
    """
    values, colours = labels.cpu().numpy().astype(np.uint8), palette(len(classes))
    names = [(_short(classes[k]), tuple(int(c) for c in colours[k])) for k in np.unique(values).tolist()]
    return _side_by_side([Image.blend(image, Image.fromarray(colours[values]), 0.5)], [""], names)


def class_picture(image: Image.Image, name: str, probability: float) -> Image.Image:
    """A photograph with the name of its class above it."""
    return _side_by_side([image], [f"{_short(name)} {probability:.2f}"], [])


def label_image(labels: Tensor, classes: int) -> Image.Image:
    """Labels (H, W) as a picture whose pixels are the labels and whose palette colours them."""
    picture = Image.fromarray(labels.cpu().numpy().astype(np.uint8), mode="P")
    picture.putpalette(palette(classes).tobytes())
    return picture
