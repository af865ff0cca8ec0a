"""Aligned-Inception-ResNet, the paper's second backbone (its appendix): Inception's branches in ResNet's stages.

The original Inception-ResNet has valid convolutions and pooling, whose features drift from the image's grid. Here every
layer is padded by half its kernel, so that feature (i, j) of a map of stride s is centred at pixel (s i, s j).

The paper gives 64.3M parameters with the classifier; the block is as two third-party transcriptions have it. What these
leave open is chosen so:

- A batch norm follows every convolution, which has no bias, and a ReLU follows every norm but the one before the sum,
  as in ResNet. Counted by layers this is 64.38M with 1000 classes: 62.20M of convolutions, 0.13M of norms, 2.05M of the
  classifier.
- A stage's stride is on the first 3x3 of each branch and on the 1x1 of the shortcut, as in torchvision's ResNets.
- A block has three 3x3 convolutions, not ResNet's one. `deform_layers` = n counts single convolutions, in the order of
  the forward pass: in a block branch_a.conv2, branch_b.conv2, branch_b.conv3. So 3 is the last block's, res5c. The
  paper's "last 3 layers", which in ResNet are all the 3x3 ones of res5a, b and c, is read here as all of res5: 9.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torchvision.models.resnet import conv1x1, conv3x3

_BLOCKS, _WIDTHS = (3, 4, 23, 3), (64, 128, 256, 512)


class AlignedInceptionBlock(nn.Module):
    """Two branches joined by a 1x1 convolution and added to the shortcut.

    Branch a is 1x1 and 3x3, each to `width` channels; branch b 1x1, 3x3 and 3x3, each to half as many.

    Args:
        channels: of the input.
        width: p in the paper's figure; even. The output has 4 p channels.
        stride: of the block, 1 or 2. Where it or the number of channels changes, a 1x1 convolution is the shortcut.
    """

    def __init__(self, channels: int, width: int, stride: int = 1) -> None:
        super().__init__()
        half = width // 2
        self.branch_a = nn.Sequential(
            _layers([conv1x1(channels, width), conv3x3(width, width, stride)]),
        )
        self.branch_b = nn.Sequential(
            _layers([conv1x1(channels, half), conv3x3(half, half, stride), conv3x3(half, half)]),
        )
        self.conv, self.bn = conv1x1(width + half, 4 * width), nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or channels != 4 * width:
            self.downsample = nn.Sequential(conv1x1(channels, 4 * width, stride), nn.BatchNorm2d(4 * width))

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, 4 p, ceil(H / stride), ceil(W / stride)) of features (N, channels, H, W)."""
        branches = torch.cat([self.branch_a(x), self.branch_b(x)], dim=1)
        out: Tensor = self.relu(self.bn(self.conv(branches)) + self.downsample(x))
        return out


def aligned_inception_resnet(num_classes: int = 1000) -> nn.Sequential:
    """Aligned-Inception-ResNet with new weights and a classifier, under the names of torchvision's residual networks.

    Stem of 7x7 and 3x3 maximum, stages layer1 to layer4 (res2 to res5) of 3, 4, 23, 3 blocks, mean, linear layer.

    Args:
        num_classes: size of the last layer.

    Returns:
        A network from images (N, 3, H, W), normalised, to logits (N, num_classes).
    """
    parts: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(3, _WIDTHS[0], 7, stride=2, padding=3, bias=False),
        bn1=nn.BatchNorm2d(_WIDTHS[0]),
        relu=nn.ReLU(inplace=True),
        maxpool=nn.MaxPool2d(3, stride=2, padding=1),
    )
    channels = _WIDTHS[0]
    for number, (blocks, width) in enumerate(zip(_BLOCKS, _WIDTHS, strict=True), start=1):
        first = AlignedInceptionBlock(channels, width, stride=1 if number == 1 else 2)
        channels = 4 * width
        others = (AlignedInceptionBlock(channels, width) for _ in range(blocks - 1))
        parts[f"layer{number}"] = nn.Sequential(first, *others)
    parts.update(avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(1), fc=nn.Linear(channels, num_classes))
    model = nn.Sequential(parts)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model


def _layers(convs: list[nn.Conv2d]) -> OrderedDict[str, nn.Module]:
    """Convolutions conv1, conv2, ..., each with its norm and ReLU."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, conv in enumerate(convs, start=1):
        layers[f"conv{number}"] = conv
        layers[f"bn{number}"] = nn.BatchNorm2d(conv.out_channels)
        layers[f"relu{number}"] = nn.ReLU(inplace=True)
    return layers
