"""Pictures of boxes: annotated and detected ones side by side, or in one photograph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from dcnlab.tasks.box_drawing import class_colours, draw_boxes, short_name
from dcnlab.tasks.pictures import shown_size, side_by_side


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
    title = _found(detections, classes, min_score)
    return side_by_side(
        pictures, ["annotated" if len(target["labels"]) else "annotated: nothing", title], _legend(drawn, classes)
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
    return side_by_side([large], ["" if drawn else "no box"], _legend(drawn, classes))
