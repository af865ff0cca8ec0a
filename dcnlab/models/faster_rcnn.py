"""Faster R-CNN with a light head of two fully connected layers (paper, section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from dcnlab.models.anchors import AnchorPredictions, RPNSettings
from dcnlab.models.backbone import Backbone
from dcnlab.models.detector import DetectionSettings
from dcnlab.models.initialisation import init_new_layers
from dcnlab.models.roi_pool import plain_pool
from dcnlab.models.roi_sampling import RoISampling
from dcnlab.models.rpn import RPN
from dcnlab.models.two_stage import Maps, TwoStageDetector
from dcnlab.nn import DeformRoIPool


class TwoFCHead(nn.Module):
    """Two fully connected layers, then class scores and one box for each class.

    The background has a box too, which nothing trains or reads, as in the authors' code: 4 (C + 1) outputs.

    Args:
        inputs: features of an RoI.
        num_classes: C, without the background.
        fc_channels: outputs of the two layers.
    """

    def __init__(self, inputs: int, num_classes: int, fc_channels: int = 1024) -> None:
        super().__init__()
        self.fc1 = nn.Linear(inputs, fc_channels)
        self.fc2 = nn.Linear(fc_channels, fc_channels)
        self.class_scores = nn.Linear(fc_channels, num_classes + 1)
        self.box_deltas = nn.Linear(fc_channels, 4 * (num_classes + 1))
        init_new_layers(self)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """(R, ...) pooled features -> (R, C + 1) scores, (R, C + 1, 4) deltas."""
        hidden = functional.relu(self.fc2(functional.relu(self.fc1(pooled.flatten(1)))))
        return self.class_scores(hidden), self.box_deltas(hidden).unflatten(1, (-1, 4))


class FasterRCNN(TwoStageDetector):
    """Faster R-CNN: RPN on res4; on res5 a 1x1 convolution, 7x7 RoI pooling, two fully connected layers.

    Args:
        backbone: its res4 carries the RPN, its res5 the head.
        num_classes: C, without the background.
        deform_pooling: learn sampling locations from the plainly pooled features (:class:`dcnlab.nn.DeformRoIPool`; the
            paper trains its `offset_fc` at 0.01 times the base rate), else pool as `plain_pooling` says.
        plain_pooling: mean or authors, see :func:`.plain_pool`.
        channels: of the 1x1 convolution.
        fc_channels: of the fully connected layers.
        pooled_size: bins along each side of a box.
        rpn, sampling, detections: numbers of the proposals, of the head's training and of the test; None: the defaults.
        exact_rois: see :class:`.TwoStageDetector`.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        deform_pooling: bool = False,
        channels: int = 256,
        fc_channels: int = 1024,
        pooled_size: int = 7,
        rpn: RPNSettings | None = None,
        sampling: RoISampling | None = None,
        detections: DetectionSettings | None = None,
        plain_pooling: str = "mean",
        exact_rois: bool = False,
    ) -> None:
        in_channels, strides = backbone.channels, backbone.strides
        super().__init__(
            RPN(in_channels["res4"], [strides["res4"]], rpn),
            max(strides.values()),
            sampling,
            None,
            detections,
            exact_rois,
        )
        self.backbone = backbone
        self.reduce = nn.Conv2d(in_channels["res5"], channels, 1)
        scale = 1 / strides["res5"]
        self.pool: nn.Module = plain_pool(plain_pooling, pooled_size, scale)
        if deform_pooling:
            self.pool = DeformRoIPool(channels, pooled_size, scale)
        self.head = TwoFCHead(channels * pooled_size**2, num_classes, fc_channels)
        init_new_layers(self.reduce)

    def maps(self, images: Tensor) -> Maps:
        """The backbone's maps, and the map that the head pools from."""
        maps = self.backbone(images)
        return {"res4": maps["res4"], "pooled from": functional.relu(self.reduce(maps["res5"]))}

    def propose(self, maps: Maps) -> AnchorPredictions:
        """The RPN on res4."""
        return self.rpn([maps["res4"]])

    def classify(self, maps: Maps, boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Class scores (R, C + 1) and each class's deltas (R, C + 1, 4)."""
        features = maps["pooled from"]
        with torch.autocast(features.device.type, enabled=False):
            pooled = self.pool(features.to(self.reduce.weight.dtype), self.pooled(boxes))
        return self.head(pooled)
