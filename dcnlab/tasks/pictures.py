"""Pictures of predictions in test images, next to the ground truth."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from dcnlab.tasks.box_drawing import class_colours, draw_boxes, short_name

GAP, ROW = 6, 18  # pixels between pictures, and a line of text
LARGEST = 2048
"""Longer side of a picture in a panel, pixels: a strip is enlarged no further, and a larger image is made smaller."""


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


def _map_colours(classes: Sequence[str]) -> NDArray[np.uint8]:
    """Bright colours of label values as a table (256, 3); background is black, unknown pixels are white."""
    colours = np.full((256, 3), 255, np.uint8)
    for label, colour in enumerate(class_colours(classes)[:255]):
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
    colours = _map_colours(classes)
    pictures = [image.resize(size, Image.Resampling.BILINEAR)]
    pictures += [Image.fromarray(colours[map_]).resize(size, Image.Resampling.NEAREST) for map_ in (truth, predicted)]
    seen = sorted((set(np.unique(truth).tolist()) | set(np.unique(predicted).tolist())) - {255})
    names = [(short_name(classes[k]), tuple(int(c) for c in colours[k])) for k in seen]
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
    large = image.resize(shown_size(image.height, image.width, 480), Image.Resampling.BICUBIC)
    zoom = torch.tensor([large.width / image.width, large.height / image.height] * 2)
    pictures, drawn = [], list[int]()
    for boxes in (target, detections):
        picture = large.copy()
        scores = boxes["scores"].tolist() if "scores" in boxes else [None] * len(boxes["labels"])
        corners = (boxes["boxes"].float().cpu() * zoom).tolist()
        drawn += draw_boxes(picture, corners, boxes["labels"].tolist(), scores, classes, min_score)
        pictures.append(picture)
    found = _found(detections, classes, min_score)
    return _side_by_side(
        pictures, ["annotated" if len(target["labels"]) else "annotated: nothing", found], _legend(drawn, classes)
    )


def _found(detections: Mapping[str, Tensor], classes: Sequence[str], min_score: float) -> str:
    """The title of the detections; it says so if none is drawn, and what the best is."""
    scores = detections["scores"].tolist()
    if any(score >= min_score for score in scores):
        return f"found, score {min_score:g} or more"
    if not scores:
        return "found: nothing"
    best = max(range(len(scores)), key=scores.__getitem__)
    name = short_name(classes[int(detections["labels"][best]) - 1])
    return f"found: nothing of score {min_score:g}; best: {name} {scores[best]:.2f}"


def _legend(labels: Sequence[int], classes: Sequence[str]) -> list[tuple[str, tuple[int, ...]]]:
    """Names and colours of the labels 1..C that are there."""
    colours = class_colours(classes)
    return [(short_name(classes[label - 1]), colours[label - 1]) for label in sorted(set(labels))]


def box_picture(
    image: Image.Image, boxes: Tensor, labels: Tensor, scores: Tensor, classes: Sequence[str], min_score: float
) -> Image.Image:
    """A photograph with the boxes found in it; see `detection_panel` for the arguments."""
    picture = image.copy()
    draw_boxes(picture, boxes.tolist(), labels.tolist(), scores.tolist(), classes, min_score)
    return picture


def label_picture(image: Image.Image, labels: Tensor, classes: Sequence[str]) -> Image.Image:
    """A photograph under half-transparent colours of its pixels' classes; below it the colours' names.

    Args:
        image: of the labels' size.
        labels: (H, W), 0 to classes - 1, or 255 where it is not known: white.
        classes: names in the order of the labels.
    """
    values, colours = labels.cpu().numpy().astype(np.uint8), _map_colours(classes)
    names = [
        (short_name(classes[k]), tuple(int(c) for c in colours[k]))
        for k in np.unique(values).tolist()
        if k < len(classes)
    ]
    return _side_by_side([Image.blend(image, Image.fromarray(colours[values]), 0.5)], [""], names)


def class_picture(image: Image.Image, name: str, probability: float) -> Image.Image:
    """A photograph with the name of its class above it."""
    return _side_by_side([image], [f"{short_name(name)} {probability:.2f}"], [])


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
    return _side_by_side(drawn, titles, [])


def box_panel(image: Image.Image, boxes: Tensor, labels: Tensor, classes: Sequence[str]) -> Image.Image:
    """A photograph with its annotated boxes, enlarged so that their names can be read.

    Args:
        image: as the network sees it.
        boxes: (n, 4), its pixels.
        labels: (n,) 1..C.
        classes: names of the labels 1..C.
    """
    large = image.resize(shown_size(image.height, image.width, 336), Image.Resampling.BICUBIC)
    zoom = torch.tensor([large.width / image.width, large.height / image.height] * 2)
    drawn = draw_boxes(large, (boxes * zoom).tolist(), labels.tolist(), [None] * len(labels), classes, 0.0)
    return _side_by_side([large], ["" if drawn else "no box"], _legend(drawn, classes))


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


def label_image(labels: Tensor, classes: int) -> Image.Image:
    """Labels (H, W) as a picture whose pixels are the labels and whose palette colours them."""
    picture = Image.fromarray(labels.cpu().numpy().astype(np.uint8), mode="P")
    picture.putpalette(palette(classes).tobytes())
    return picture
