"""Base class of detectors: batching, score threshold, NMS."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes

from dcnlab.models.anchors import Size
from dcnlab.models.image_batch import numbers_by_size, pad_images

Detections = dict[str, Tensor]
"""`boxes` (n, 4), `labels` (n,) 1..C, `scores` (n,) of one image."""


@dataclass(frozen=True)
class DetectionSettings:
    """Which scored boxes are detections; the defaults are those of the authors' code for VOC."""

    score_floor: float = 1e-3
    """Boxes of a class with a score up to this are dropped."""
    nms_iou: float = 0.3
    """Maximum IoU of two kept boxes of a class; beyond it the one with the higher score stays."""
    max_detections: int = 300
    """Maximum number for an image. COCO: 100."""

    def scored(self, scores: Tensor, boxes: Tensor, size: Size, most: int | None = None) -> Detections:
        """Make a flat list of each class's boxes above the score floor, clipped to the image.

        Args:
            scores: (R, C), the classes' probabilities without the background's.
            boxes: (R, C, 4) or, the same for all classes, (R, 1, 4).
            size: true (h, w) of the image.
            most: keep only this many, with the highest scores; None: all.
        """
        row, column = (scores > self.score_floor).nonzero(as_tuple=True)
        kept_scores = scores[row, column]
        if most is not None and len(kept_scores) > most:
            kept_scores, best = kept_scores.topk(most)
            row, column = row[best], column[best]
        boxes = clip_boxes_to_image(boxes.expand(-1, scores.shape[1], -1)[row, column], size)
        large = remove_small_boxes(boxes, 1e-2)
        return {"boxes": boxes[large], "labels": column[large] + 1, "scores": kept_scores[large]}

    def suppress(self, candidates: Detections) -> Detections:
        """Non-maximum suppression within each class; the best that remain, best first."""
        kept = batched_nms(candidates["boxes"], candidates["scores"], candidates["labels"], self.nms_iou)
        return {name: values[kept[: self.max_detections]] for name, values in candidates.items()}


class Detector(nn.Module, ABC):
    """A detector, called as torchvision's are.

    `model(images, targets)` gives a dict of scalar losses, `model(images)` a list of detections; which of the two is
    told by the targets, not by the training mode. Losses, boxes and suppression are float32 under autocast.

    Args:
        stride: the images' sides are padded with zeros to multiples of it.
        detections: settings of the test; None: the defaults.
    """

    takes_proposals: ClassVar[bool] = False
    """Whether it has a second stage, which can look at boxes from elsewhere."""

    def __init__(self, stride: int, detections: DetectionSettings | None) -> None:
        super().__init__()
        self.stride = stride
        self.detections = detections or DetectionSettings()

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[dict[str, Any]] | None = None
    ) -> dict[str, Tensor] | list[Detections]:
        """Losses of a training batch, or detections.

        Args:
            images: (3, h, w) each, normalised, of any sizes.
            targets: for each image `boxes` (n, 4), x1, y1, x2, y2 in its pixels, and `labels` (n,) int64 1..C; an image
                without boxes trains as background. A `seed`, a whole number, makes the anchors and proposals that are
                drawn for the image's losses a function of it; without one torch's own generator draws.

        Returns:
            With targets, named scalar losses; else for each image `boxes` (n, 4) in its pixels, `labels` (n,) and
            `scores` (n,), best first. Images of other sizes in the batch make no difference to an image's detections.
        """
        if targets is None:
            return [self.detections.suppress(candidates) for candidates in self.candidates(images)]
        if len(targets) != len(images):
            raise ValueError(f"targets: {len(targets)} for {len(images)} images")
        return self.losses(pad_images(images, self.stride), targets)

    @abstractmethod
    def losses(self, batch: ImageList, targets: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Losses of a padded batch."""

    @abstractmethod
    def score(self, batch: ImageList, proposals: Sequence[Tensor] | None) -> list[Detections]:
        """All boxes above the score floor, of a batch of images of one size."""

    def candidates(self, images: Sequence[Tensor], proposals: Sequence[Tensor] | None = None) -> list[Detections]:
        """Detections of `model(images)` before non-maximum suppression.

        Args:
            images: as for the model.
            proposals: (n, 4) for each image, in place of those that the network makes.

        Raises:
            ValueError: proposals for a detector that takes none.
        """
        if proposals is not None and not self.takes_proposals:
            raise ValueError(f"proposals: {type(self).__name__} has no second stage that could score them")
        by_number: dict[int, Detections] = {}
        for numbers in numbers_by_size(images):
            batch = pad_images([images[number] for number in numbers], self.stride)
            proposed = None if proposals is None else [proposals[number] for number in numbers]
            by_number.update(zip(numbers, self.score(batch, proposed), strict=True))
        return [by_number[number] for number in range(len(images))]


def join(parts: Sequence[Detections]) -> Detections:
    """Concatenate several lists of detections of the same image."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
