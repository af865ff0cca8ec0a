"""DeepLab as in the paper (section 4.1): class scores on res5, enlarged to the image."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from dcnlab.models.backbone import Backbone

IGNORE = 255
"""The label of pixels that count for nothing."""


class DeepLab(nn.Module):
    """A backbone, a 1x1 convolution to 1024 channels, one to the classes, and bilinear enlargement.

    Args:
        backbone: its res5 carries the head.
        num_classes: includes the background, if the data set has one.
        channels: between the two convolutions.
        loss_stride: in training, logits are made for every so many-th row and column of pixels.
    """

    def __init__(self, backbone: Backbone, num_classes: int, channels: int = 1024, loss_stride: int = 1) -> None:
        super().__init__()
        self.loss_stride = loss_stride
        self.backbone, self.stride = backbone, backbone.strides["res5"]
        self.reduce = nn.Conv2d(backbone.channels["res5"], channels, 1)
        self.relu = nn.ReLU(inplace=True)
        self.classify = nn.Conv2d(channels, num_classes, 1)
        for conv in (self.reduce, self.classify):
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.constant_(conv.bias, 0)  # type: ignore[arg-type]  # it has one

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes, H, W) of images (N, 3, H, W), normalised.

        In training mode (N, classes, ceil(H / loss_stride), ceil(W / loss_stride)).
        """
        scores = self.classify(self.relu(self.reduce(self.backbone(images)["res5"])))
        # By the stride, not to the size: as the authors' deconvolution, whatever part of the last cell the image has.
        step = self.loss_stride if self.training else 1
        enlarged = interpolate(scores, scale_factor=self.stride / step, mode="bilinear", align_corners=False)
        height, width = (-(-side // step) for side in images.shape[-2:])
        return enlarged[..., :height, :width]

    @staticmethod
    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        """Cross entropy: each image's mean over its pixels that count, 0 where none does, and of these the mean.

        Images weigh the same, so that a step trains as one however its images are shared out.

        Args:
            logits: (N, classes, H, W), or of every so many-th row and column.
            labels: (N, H, W) int64, 0 to classes - 1 or `IGNORE`.
        """
        step = -(-labels.shape[-1] // logits.shape[-1])
        if step > 1:  # a logit stands for a square of pixels: the label is that of its middle
            places = [
                (torch.arange(count, device=labels.device) * step + step // 2).clamp(max=side - 1)
                for count, side in zip(logits.shape[-2:], labels.shape[-2:], strict=True)
            ]
            labels = labels[:, places[0][:, None], places[1]]
        # torch's own sum is made by atomics on a GPU, and refused where trainer.deterministic is true.
        losses = cross_entropy(logits.float(), labels, ignore_index=IGNORE, reduction="none")
        return (losses.sum((1, 2)) / (labels != IGNORE).sum((1, 2)).clamp(min=1)).mean()
