"""R-FCN: position-sensitive score maps, pooled and averaged (paper, section 3.2; Dai et al. 2016)."""

from __future__ import annotations

from dataclasses import replace

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
from dcnlab.nn import DeformPSRoIPool

BOXES = 2
"""Boxes of an RoI, the background's and the foreground's: no class has its own, and the first is never read."""


class RFCN(TwoStageDetector):
    """R-FCN: RPN on res4; on res5 a 1x1 convolution, score and box maps, position-sensitive pooling, the bins' mean.

    With `deform_pooling` a 1x1 convolution makes offset maps of 2 k^2 (C + 1) channels for the scores, so every class
    has separate offsets. The paper does not mention the boxes' offsets; here they are as in the authors' code, one
    field of 2 k^2 channels from a separate convolution. With it a ResNet-101 on VOC gains 2.46M parameters, without
    it 2.36M; table 4 has 2.4M.

    Args:
        backbone: its res4 carries the RPN, its res5 the head.
        num_classes: C, without the background.
        deform_pooling: pool by :class:`dcnlab.nn.DeformPSRoIPool`, else as `plain_pooling` says.
        plain_pooling: mean or authors, see :func:`.plain_pool`.
        ohem: draw no sample of RoIs, but train with the hardest `sampling.rois` of all (the authors' code does).
        channels: of the 1x1 convolution `reduce`, which the authors' code trains at 3 times the base rate.
        pooled_size: k, bins along each side of a box.
        rpn, sampling, detections: numbers of the proposals, of the head's training and of the test; None: the defaults.
        exact_rois: see :class:`.TwoStageDetector`.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        deform_pooling: bool = False,
        ohem: bool = False,
        channels: int = 1024,
        pooled_size: int = 7,
        rpn: RPNSettings | None = None,
        sampling: RoISampling | None = None,
        detections: DetectionSettings | None = None,
        plain_pooling: str = "mean",
        exact_rois: bool = False,
    ) -> None:
        in_channels, strides = backbone.channels, backbone.strides
        sampling = sampling or RoISampling()
        hardest = sampling.rois if ohem else None
        super().__init__(
            RPN(in_channels["res4"], [strides["res4"]], rpn),
            max(strides.values()),
            replace(sampling, rois=None) if ohem else sampling,
            hardest,
            detections,
            # torchvision's position-sensitive pooling adds no pixel to the far edge.
            exact_rois and (deform_pooling or plain_pooling == "mean"),
        )
        self.backbone = backbone
        self.reduce = nn.Conv2d(in_channels["res5"], channels, 1)
        self.score_maps = nn.Conv2d(channels, pooled_size**2 * (num_classes + 1), 1)
        self.box_maps = nn.Conv2d(channels, pooled_size**2 * 4 * BOXES, 1)
        scale = 1 / strides["res5"]
        self.score_pool = plain_pool(plain_pooling, pooled_size, scale, position_sensitive=True)
        self.box_pool = plain_pool(plain_pooling, pooled_size, scale, position_sensitive=True)
        if deform_pooling:
            self.score_pool = DeformPSRoIPool(channels, num_classes + 1, pooled_size, scale)
            self.box_pool = DeformPSRoIPool(channels, 1, pooled_size, scale)
        self.deform_pooling = deform_pooling
        init_new_layers(self.reduce, self.score_maps, self.box_maps)

    def maps(self, images: Tensor) -> Maps:
        """The backbone's res4, and the reduced res5 with its score and box maps."""
        maps = self.backbone(images)
        reduced = functional.relu(self.reduce(maps["res5"]))
        return {
            "res4": maps["res4"],
            "reduced": reduced,
            "scores": self.score_maps(reduced),
            "boxes": self.box_maps(reduced),
        }

    def propose(self, maps: Maps) -> AnchorPredictions:
        """The RPN on res4."""
        return self.rpn([maps["res4"]])

    def classify(self, maps: Maps, boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Class scores (R, C + 1) and the two boxes' deltas (R, 2, 4)."""
        with torch.autocast(maps["reduced"].device.type, enabled=False):
            boxes = self.pooled(boxes)
            real = {name: maps[name].to(self.reduce.weight.dtype) for name in ("reduced", "scores", "boxes")}
            if self.deform_pooling:
                scores = self.score_pool(real["reduced"], real["scores"], boxes)
                deltas = self.box_pool(real["reduced"], real["boxes"], boxes)
            else:
                scores, deltas = self.score_pool(real["scores"], boxes), self.box_pool(real["boxes"], boxes)
            return scores.mean((2, 3)), deltas.mean((2, 3)).unflatten(1, (BOXES, 4))
