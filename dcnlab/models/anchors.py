"""Anchors, and the layers of the RPN and the class-aware RPN that classify and regress them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.ops import box_iou

from dcnlab.models.balanced_sample import balanced_sample
from dcnlab.models.initialisation import init_new_layers

Size = tuple[int, int]


@dataclass(frozen=True)
class RPNSettings:
    """Settings of a region proposal network; the defaults are those of the authors' code for VOC."""

    scales: tuple[float, ...] = (8, 16, 32)
    """Sides of the square anchors in strides of the map: 128, 256, 512 pixels at stride 16. COCO adds 4."""
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Height over width, at the same area."""
    hidden_channels: int | None = 512
    """Of the 3x3 convolution; None: no such layer, the 1x1 convolutions read the map itself."""
    sampled: int = 256
    """Anchors of an image sampled for the loss."""
    positive_fraction: float = 0.5
    positive_iou: float = 0.7
    """Minimum IoU of a positive anchor; a box's best anchors are positive too, if they overlap it at all."""
    negative_iou: float = 0.3
    """An anchor below this IoU is negative."""
    allowed_border: float | None = 0.0
    """Pixels that an anchor may reach out of the image in training; None: any, if its centre is in the image. The
    authors' code has 0, and None with the feature pyramid. Images no larger than the anchors need None."""
    candidates: int = 6000
    """Proposals of an image, or of a pyramid's level, before non-maximum suppression."""
    nms_iou: float = 0.7
    proposals: int = 300
    """Proposals of an image after it, in training and in test."""


class AnchorPredictions(NamedTuple):
    """Output of an :class:`AnchorHead` for a batch, in float32. A: anchors of all levels, K: classes."""

    scores: Tensor
    """(N, A, K), before sigmoid or softmax."""
    deltas: Tensor
    """(N, A, 4)."""
    anchors: Tensor
    """(A, 4), pixels."""
    per_level: list[int]
    """Anchors of each level, in their order."""


class AnchorHead(nn.Module):
    """Class scores and box deltas for the anchors at every pixel of one map or several.

    Args:
        in_channels: of every map.
        strides: of each map, in pixels.
        classes: scores of an anchor: 1, object or not by a sigmoid, or C + 1 with the background first, by softmax.
        settings: scales, ratios, hidden channels; and those of the loss.
    """

    def __init__(self, in_channels: int, strides: Sequence[int], classes: int, settings: RPNSettings) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.classes = classes
        self.settings = settings
        self.box_coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
        sizes = tuple(tuple(scale * stride for scale in settings.scales) for stride in strides)
        self.anchor_generator = AnchorGenerator(sizes, (settings.ratios,) * len(sizes))
        per_place = len(settings.scales) * len(settings.ratios)
        hidden = settings.hidden_channels or in_channels
        self.conv = nn.Conv2d(in_channels, hidden, 3, padding=1) if settings.hidden_channels else None
        self.class_scores = nn.Conv2d(hidden, per_place * classes, 1)
        self.box_deltas = nn.Conv2d(hidden, per_place * 4, 1)
        init_new_layers(self)

    def forward(self, maps: Sequence[Tensor]) -> AnchorPredictions:
        """Predict from maps (N, in_channels, h, w), one for each stride."""
        scores, deltas = [], []
        for features in maps:
            hidden = features if self.conv is None else functional.relu(self.conv(features))
            scores.append(self.class_scores(hidden).float())
            deltas.append(self.box_deltas(hidden).float())
        self.anchor_generator.set_cell_anchors(torch.float32, maps[0].device)
        grids = [list(features.shape[-2:]) for features in maps]
        levels = self.anchor_generator.grid_anchors(grids, [[stride, stride] for stride in self.strides])
        flat_scores, flat_deltas = concat_box_prediction_layers(scores, deltas)
        batch = maps[0].shape[0]
        return AnchorPredictions(
            flat_scores.view(batch, -1, self.classes),
            flat_deltas.view(batch, -1, 4),
            torch.cat(levels),
            [len(level) for level in levels],
        )

    def losses(
        self, predictions: AnchorPredictions, sizes: Sequence[Size], targets: Sequence[dict[str, Any]]
    ) -> tuple[Tensor, Tensor]:
        """Losses of a random sample of each image's anchors.

        Args:
            predictions: of N images.
            sizes: true (h, w) of each image.
            targets: `boxes` (n, 4) and `labels` (n,) 1..C of each; none make a background image. `seed`, where there is
                one, is that of the sample.

        Returns:
            Mean cross-entropy of an image's sampled anchors; the positive ones' smooth L1 loss with sigma 3, over the
            number of all its sampled anchors. Both are means over the images.
        """
        assigned = [
            self.assign(predictions.anchors, size, target["boxes"].float(), target["labels"])
            for size, target in zip(sizes, targets, strict=True)
        ]
        settings = self.settings
        drawn = [
            balanced_sample(labels, settings.sampled, settings.positive_fraction, target.get("seed"))
            for (labels, _), target in zip(assigned, targets, strict=True)
        ]
        positive, negative = (torch.stack(masks) for masks in zip(*drawn, strict=True))
        labels, boxes = (torch.stack(parts) for parts in zip(*assigned, strict=True))
        sampled = positive | negative
        # Each image weighs the same, however many anchors it samples: the loss is equal on one rank and on eight.
        weights = (1 / (len(sampled) * sampled.sum(1, keepdim=True).clamp(min=1))).expand_as(sampled)
        if self.classes == 1:
            objects = (labels[sampled] > 0).float()
            class_losses = functional.binary_cross_entropy_with_logits(
                predictions.scores[sampled][:, 0], objects, reduction="none"
            )
        else:
            class_losses = functional.cross_entropy(predictions.scores[sampled], labels[sampled], reduction="none")
        anchors = predictions.anchors.expand_as(boxes)[positive]
        box_losses = functional.smooth_l1_loss(
            predictions.deltas[positive],
            self.box_coder.encode_single(boxes[positive], anchors),
            beta=1 / 9,
            reduction="none",
        ).sum(1)
        return (class_losses * weights[sampled]).sum(), (box_losses * weights[positive]).sum()

    def assign(self, anchors: Tensor, size: Size, boxes: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Give each anchor the box that it overlaps most.

        Args:
            anchors: (A, 4).
            size: true (h, w) of the image.
            boxes: (n, 4), in its pixels.
            labels: (n,), 1..C.

        Returns:
            (A,) the box's label, 0 for background, -1 for an anchor that takes no part; (A, 4) the boxes.
        """
        anchor_labels = labels.new_full((len(anchors),), -1)
        anchor_boxes = torch.zeros_like(anchors)
        usable = self._usable(anchors, size).nonzero()[:, 0]
        anchor_labels[usable] = 0
        if len(usable) == 0 or len(boxes) == 0:
            return anchor_labels, anchor_boxes
        overlaps = box_iou(boxes, anchors[usable])
        # The matcher would call every anchor the best one of a box that none of them touches.
        touched = overlaps.max(dim=1).values > 0
        overlaps, boxes, labels = overlaps[touched], boxes[touched], labels[touched]
        if len(boxes) == 0:
            return anchor_labels, anchor_boxes
        matcher = Matcher(self.settings.positive_iou, self.settings.negative_iou, allow_low_quality_matches=True)
        matches = matcher(overlaps)
        anchor_boxes[usable] = boxes[matches.clamp(min=0)]
        matched_labels = torch.where(matches >= 0, labels[matches.clamp(min=0)], 0)
        anchor_labels[usable] = torch.where(matches == Matcher.BETWEEN_THRESHOLDS, -1, matched_labels)
        return anchor_labels, anchor_boxes

    def _usable(self, anchors: Tensor, size: Size) -> Tensor:
        border = self.settings.allowed_border
        if border is None:
            return on_image(anchors, size)
        x1, y1, x2, y2 = anchors.unbind(1)
        return (x1 >= -border) & (y1 >= -border) & (x2 <= size[1] + border) & (y2 <= size[0] + border)


def on_image(anchors: Tensor, size: Size) -> Tensor:
    """Which anchors (A, 4) have their centre on an image of (h, w), not on its padding."""
    x, y = (anchors[:, 0] + anchors[:, 2]) / 2, (anchors[:, 1] + anchors[:, 3]) / 2
    return (x < size[1]) & (y < size[0])
