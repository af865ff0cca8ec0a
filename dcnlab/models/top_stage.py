"""TopStage: a trainable stage of dense 3x3 convolutions in the place of res5, on the res4 of any backbone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, conv1x1

from dcnlab.models.feature_cache import FeatureCache
from dcnlab.models.resnet import operate

WIDTH = 96
"""Channels of the stage's 3x3 convolutions; its map has twice as many."""
BLOCKS = 3
"""Bottlenecks of the stage, each with one 3x3 convolution, as in res5 of the paper's ResNet (section 4.1)."""


class NarrowBottleneck(Bottleneck):
    """torchvision's, whose output has twice the channels of its 3x3 convolution, not four times.

    So the 3x3 convolutions, which the ablation is about, do most of the stage's work.
    """

    expansion = 2


class TopStage(nn.Module):
    """A trunk up to res4, and three bottlenecks at the same stride, whose map is res5.

    Their 3x3 convolutions are dense. So they can be dilated or deformed as in a ResNet, where the trunk has only
    depthwise ones.

    Args:
        trunk: gives its maps by stage, res4 among them; without its own res5.

    Attributes:
        channels: of each stage's map, by its name in the paper.
        strides: pixels of the image between neighbouring features, likewise.
        cache: of the trunk's res4, see `FeatureCache`; None computes it anew each time.
    """

    def __init__(self, trunk: Any) -> None:
        super().__init__()
        self.trunk = trunk
        self.cache: FeatureCache | None = None
        before, after = trunk.channels["res4"], WIDTH * NarrowBottleneck.expansion
        shortcut = nn.Sequential(conv1x1(before, after), nn.BatchNorm2d(after))
        first = NarrowBottleneck(before, WIDTH, downsample=shortcut)
        self.top = nn.Sequential(first, *(NarrowBottleneck(after, WIDTH) for _ in range(BLOCKS - 1)))
        for module in self.top.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.channels = {**trunk.channels, "res5": after}
        self.strides = {**trunk.strides, "res5": trunk.strides["res4"]}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Features of images (N, 3, H, W), by stage; from a cache res4 and res5 alone."""
        maps = self.trunk(images) if self.cache is None else self._cached(images)
        return {**maps, "res5": self.top(maps["res4"])}

    @torch.compiler.disable
    def _cached(self, images: Tensor) -> dict[str, Tensor]:
        assert self.cache is not None
        return {"res4": self.cache.maps(images, self.strides["res4"])}


def dense_top(trunk: Any, name: str, **layers: Any) -> TopStage:
    """Put the trainable stage on a trunk, with its layers dilated and deformed.

    Args:
        trunk: see :class:`TopStage`.
        name: of the trunk, for messages.
        **layers: see :func:`operate`.

    Raises:
        ConfigError: more deformable layers than there are, or channels that the groups do not divide.
    """
    stage = TopStage(trunk)
    operate(stage.top, f"{name} under model.top_stage dense", last_stage="*.conv2", **layers)
    return stage.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # as the operators have it
