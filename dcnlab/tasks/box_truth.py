"""Ground truth of boxes from the targets of batches, and detections of the images that were seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dcnlab.io.errors import DataError
from dcnlab.metrics.boxes import Detections, GroundTruth


def scaled_boxes(boxes: Tensor, seen: Sequence[int], size: Sequence[int]) -> Tensor:
    """Boxes (n, 4) of an image as the network saw it, in the pixels of its file.

    Args:
        boxes: x1, y1, x2, y2.
        seen: height and width of the network's input.
        size: height and width of the file.
    """
    height, width = (there / here for there, here in zip(size, seen, strict=True))
    return boxes.float() * boxes.new_tensor([width, height, width, height]).float()


def taken_from(targets: Mapping[int, Mapping[str, Any]], classes: Sequence[str]) -> GroundTruth:
    """The ground truth of targets, for loaders that are not of our data modules.

    Args:
        targets: by the image's number: `boxes` (n, 4) and `labels` (n,) 1..C, and where boxes need not be found
            `difficult` and `iscrowd` (n,).
        classes: names of the labels 1..C.
    """
    parts = list(targets.values())
    counts = [len(part["labels"]) for part in parts]

    def column(name: str, shape: tuple[int, ...]) -> Tensor:
        given = [part.get(name, torch.zeros(count)) for part, count in zip(parts, counts, strict=True)]
        return torch.cat([torch.empty(shape, dtype=torch.float64), *(values.double().cpu() for values in given)])

    boxes = column("boxes", (0, 4))
    boxes[:, 2:] -= boxes[:, :2]
    return GroundTruth(
        image_ids=list(targets),
        class_ids=list(range(len(classes))),
        names=list(classes),
        images=np.repeat(np.arange(len(parts)), counts),
        classes=column("labels", (0,)).long().numpy() - 1,
        boxes=boxes.numpy(),
        areas=boxes[:, 2:].prod(1).numpy(),
        crowd=column("iscrowd", (0,)).bool().numpy(),
        difficult=column("difficult", (0,)).bool().numpy(),
    )


def matched(truth: GroundTruth, detections: Detections, seen: Sequence[int]) -> tuple[GroundTruth, Detections]:
    """The ground truth of the images that were seen, and detections by their positions in it.

    All images were seen, unless `trainer.limit_test_batches` or the like is set.

    Args:
        truth: whose ids are the numbers of images.
        detections: by the numbers of images.
        seen: numbers of images.

    Raises:
        DataError: an image that was seen is not in the ground truth.
    """
    position = {number: index for index, number in enumerate(truth.image_ids)}
    unknown = [number for number in seen if number not in position]
    if unknown:
        raise DataError(f"image_id {unknown[0]} of a target is not an image of the split's ground truth")
    order = [position[number] for number in seen]
    new = np.full(len(truth.image_ids), -1, np.int64)
    new[order] = np.arange(len(order))
    kept = new[truth.images] >= 0
    rows = {name: getattr(truth, name)[kept] for name in ("classes", "boxes", "areas", "crowd", "difficult")}
    truth = replace(truth, image_ids=list(seen), images=new[truth.images[kept]], **rows)
    numbers = np.array(seen, np.int64)
    return truth, replace(detections, images=np.searchsorted(numbers, detections.images))


def in_arrays(by_image: Mapping[int, Mapping[str, Tensor]]) -> Detections:
    """Put the detections of all images into flat arrays.

    Args:
        by_image: by position of the image: `boxes` (n, 4) as corners, `labels` (n,) from 1, and `scores` (n,).
    """
    parts = list(by_image.values())

    def column(name: str, shape: tuple[int, ...]) -> Tensor:
        return torch.cat([torch.empty(shape), *(part[name].detach() for part in parts)])

    boxes = column("boxes", (0, 4))
    boxes[:, 2:] -= boxes[:, :2]
    return Detections(
        images=np.repeat(np.array(list(by_image), np.int64), [len(part["labels"]) for part in parts]),
        classes=column("labels", (0,)).long().numpy() - 1,
        boxes=boxes.double().numpy(),
        scores=column("scores", (0,)).double().numpy(),
    )
