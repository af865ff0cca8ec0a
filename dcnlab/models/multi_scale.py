"""Test-time options of the paper's table 5: several image sizes, and iterative bounding box averaging."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import box_iou

from dcnlab.data.resize import resized
from dcnlab.io.errors import ConfigError
from dcnlab.models.detector import Detections, Detector, join

TABLE5_SIDES = (480, 576, 688, 864, 1200, 1400)
"""Shorter sides of the paper's multi-scale testing, in pixels."""


def detect(
    model: nn.Module,
    image: Tensor,
    shorter_sides: Sequence[int] | None = None,
    longer_sides: Sequence[int | None] | None = None,
    flip: bool = False,
    rounds: int = 0,
    vote_iou: float = 0.5,
) -> Detections:
    """Detect objects of one image with the options of the test; with none of them it is `model([image])[0]`.

    The boxes of all sizes and of the mirrored image, before non-maximum suppression, are put together on the image's
    own scale; then they are suppressed once.

    The paper describes no procedure for its "iterative bounding box average" (table 5, B). It is taken to be what
    Gidaris and Komodakis (ICCV 2015) call iterative localisation and bounding box voting, in the form in which He et
    al. (CVPR 2016, appendix) use it on COCO: `rounds` times, the boxes that suppression would leave of an image are fed
    to the second stage as its proposals, and what it makes of them joins the candidates; after the final suppression
    each box becomes the average of the candidates about it (:func:`average_boxes`).

    Args:
        model: any detector; the options need one of ours.
        image: (3, H, W), normalised, at its original size.
        shorter_sides: sizes to detect at, in pixels (`TABLE5_SIDES`); None: the image as it is.
        longer_sides: limit on the longer side at each of them, pixels; None: no limits.
        flip: detect in the mirrored images too.
        rounds: of bounding box averaging; 0: none at all. The paper does not say how many; He et al. take 1.
            A class-aware RPN has no second stage: its boxes are only averaged.
        vote_iou: overlap from which a candidate counts in a box's average.

    Returns:
        Detections in the image's pixels, best first.

    Raises:
        ConfigError: options for a detector that is not ours.
    """
    if not isinstance(model, Detector):
        if shorter_sides is not None or flip or rounds:
            raise ConfigError(
                "test.shorter_sides, test.flip and test.box_rounds are for dcnlab's detectors, and "
                f"{type(model).__name__} is none"
            )
        alone: list[Detections] = model([image])
        return alone[0]
    parts = []
    for sized in _sized(image, shorter_sides, longer_sides):
        for mirrored in (False, True) if flip else (False,):
            (scored,) = model.candidates([sized.flip(-1) if mirrored else sized])
            for _ in range(rounds if model.takes_proposals else 0):
                kept = model.detections.suppress(scored)
                (refined,) = model.candidates([sized.flip(-1) if mirrored else sized], [kept["boxes"]])
                scored = join([scored, refined])
            boxes = mirror(scored["boxes"], sized.shape[-1]) if mirrored else scored["boxes"]
            parts.append(scored | {"boxes": _rescaled(boxes, sized, image)})
    candidates = join(parts)
    kept = model.detections.suppress(candidates)
    return average_boxes(kept, candidates, vote_iou) if rounds else kept


def average_boxes(kept: Detections, candidates: Detections, iou: float = 0.5) -> Detections:
    """Box voting: move each box to the mean of the candidates about it, weighted by their scores.

    Args:
        kept: detections of an image after non-maximum suppression.
        candidates: all its scored boxes before; with the kept ones among them.
        iou: a candidate of the same class counts if it overlaps the box by so much or more.

    Returns:
        The kept detections with the new boxes; labels and scores stay.
    """
    overlaps = box_iou(kept["boxes"], candidates["boxes"])
    counted = (overlaps >= iou) & (kept["labels"][:, None] == candidates["labels"])
    weights = counted * candidates["scores"]
    return kept | {"boxes": weights @ candidates["boxes"] / weights.sum(1, keepdim=True)}


def mirror(boxes: Tensor, width: int) -> Tensor:
    """Boxes (n, 4) of an image's mirror image, where the image is so many pixels wide."""
    x1, y1, x2, y2 = boxes.unbind(1)
    return torch.stack((width - x2, y1, width - x1, y2), 1)


def _sized(
    image: Tensor, shorter_sides: Sequence[int] | None, longer_sides: Sequence[int | None] | None
) -> list[Tensor]:
    if shorter_sides is None:
        return [image]
    height, width = image.shape[-2:]
    images = []
    for side, longer_side in zip(shorter_sides, longer_sides or [None] * len(shorter_sides), strict=True):
        size = resized(height, width, side, longer_side)
        images.append(functional.interpolate(image[None], size, mode="bilinear", antialias=True)[0])
    return images


def _rescaled(boxes: Tensor, sized: Tensor, image: Tensor) -> Tensor:
    x, y = (image.shape[axis] / sized.shape[axis] for axis in (-1, -2))
    return boxes * boxes.new_tensor([x, y, x, y])
