"""Faster R-CNN on a feature pyramid (Lin et al. 2017), deformable as in the authors' later code."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

import torch
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from torchvision.ops.poolers import LevelMapper

from dcnlab.models.anchors import AnchorPredictions, RPNSettings
from dcnlab.models.backbone import STAGES, Backbone
from dcnlab.models.detector import DetectionSettings
from dcnlab.models.faster_rcnn import TwoFCHead
from dcnlab.models.initialisation import init_new_layers
from dcnlab.models.roi_pool import PlainRoIPool
from dcnlab.models.roi_sampling import RoISampling
from dcnlab.models.rpn import RPN
from dcnlab.models.two_stage import Maps, TwoStageDetector
from dcnlab.nn import DeformRoIPool

FPN_RPN = RPNSettings(scales=(8,), allowed_border=None)
"""Anchors of one scale a level, 32 to 512 pixels at strides 4 to 64; they may reach out of the image."""


class PyramidRoIPool(nn.Module):
    """RoI pooling, each box from the level of its size (Lin et al. 2017, equation 1: 224 pixels belong to level 4).

    Args:
        channels: of every level.
        strides: of the levels, finest first, in pixels: powers of two, each twice the one before.
        output_size: bins along each side of a box.
        deformable: each level learns separate offsets, as in the authors' code.
    """

    def __init__(self, channels: int, strides: list[int], output_size: int = 7, deformable: bool = False) -> None:
        super().__init__()
        first = strides[0].bit_length() - 1
        if strides != [2 ** (first + number) for number in range(len(strides))]:
            raise ValueError(
                f"a feature pyramid needs a backbone whose strides double, such as 4, 8, 16, 32 of resnet18 to "
                f"resnet152 with output stride 32; this one's are {', '.join(map(str, strides))}"
            )
        self.level_of = LevelMapper(first, first + len(strides) - 1)
        self.levels = nn.ModuleList(
            DeformRoIPool(channels, output_size, 1 / stride) if deformable else PlainRoIPool(output_size, 1 / stride)
            for stride in strides
        )

    def forward(self, maps: list[Tensor], boxes: list[Tensor], pooled: list[Tensor] | None = None) -> Tensor:
        """Pool (R, channels, output_size, output_size) from one map (N, channels, h, w) for each level.

        Args:
            maps: of each level.
            boxes: (L, 4) for each image; their size tells the level.
            pooled: the same boxes as the pooling takes them; None: as they are.
        """
        levels = self.level_of(boxes)
        boxes = pooled or boxes
        images = torch.cat([of_image.new_full((len(of_image), 1), number) for number, of_image in enumerate(boxes)])
        rois = torch.cat((images, torch.cat(boxes)), 1)
        # A level without boxes is pooled too, so that its parameters have a gradient, of zero, on every rank.
        rows = [(levels == number).nonzero()[:, 0] for number in range(len(maps))]
        pooled = [
            pool(level_map, rois[level_rows])
            for level_map, pool, level_rows in zip(maps, self.levels, rows, strict=True)
        ]
        return torch.cat(pooled)[torch.cat(rows).argsort()]


class FPNFasterRCNN(TwoStageDetector):
    """Faster R-CNN on a feature pyramid: an RPN on P2 to P6, 7x7 RoI pooling from P2 to P5, two fully connected layers.

    The pyramid stands on res2 to res5 of a backbone of output stride 32; P6 is every second pixel of P5, as in the
    pyramid's paper (the authors' code has a convolution of res5 there). RPN and head are the same on all levels, only
    the offsets of deformable pooling are each level's own.

    Args:
        backbone: of output stride 32.
        num_classes: C, without the background.
        deform_pooling: learn sampling locations from the plainly pooled features (:class:`dcnlab.nn.DeformRoIPool`).
        ohem: draw no sample of RoIs, but train with the hardest `sampling.rois` of all.
        channels: of the pyramid.
        fc_channels: of the fully connected layers.
        pooled_size: bins along each side of a box.
        rpn, sampling, detections: numbers of the proposals, of the head's training and of the test; None: the defaults,
            `FPN_RPN` for the first.
        exact_rois: see :class:`.TwoStageDetector`.

    Raises:
        ValueError: a backbone of other strides than 4, 8, 16, 32 or the like.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        deform_pooling: bool = False,
        ohem: bool = False,
        channels: int = 256,
        fc_channels: int = 1024,
        pooled_size: int = 7,
        rpn: RPNSettings | None = None,
        sampling: RoISampling | None = None,
        detections: DetectionSettings | None = None,
        exact_rois: bool = False,
    ) -> None:
        strides = [backbone.strides[stage] for stage in STAGES]
        sampling = sampling or RoISampling()
        hardest = sampling.rois if ohem else None
        super().__init__(
            RPN(channels, [*strides, 2 * strides[-1]], rpn or FPN_RPN),
            2 * strides[-1],
            replace(sampling, rois=None) if ohem else sampling,
            hardest,
            detections,
            exact_rois,
        )
        self.backbone = backbone
        self.pyramid = FeaturePyramidNetwork(
            [backbone.channels[stage] for stage in STAGES], channels, LastLevelMaxPool()
        )
        self.pool = PyramidRoIPool(channels, strides, pooled_size, deform_pooling)
        self.head = TwoFCHead(channels * pooled_size**2, num_classes, fc_channels)
        init_new_layers(self.pyramid)

    def maps(self, images: Tensor) -> Maps:
        """The pyramid's levels, finest first: res2 to res5 by the stage they stand on, and "pool", P6."""
        features = self.backbone(images)
        return self.pyramid(OrderedDict((stage, features[stage]) for stage in STAGES))

    def propose(self, maps: Maps) -> AnchorPredictions:
        """The RPN on all levels."""
        return self.rpn(list(maps.values()))

    def classify(self, maps: Maps, boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Class scores (R, C + 1) and each class's deltas (R, C + 1, 4)."""
        dtype = self.head.fc1.weight.dtype
        with torch.autocast(maps["res2"].device.type, enabled=False):
            pooled = self.pool([maps[stage].to(dtype) for stage in STAGES], boxes, self.pooled(boxes))
        return self.head(pooled)
