"""What the detectors' tests share: small detectors on four convolutions, and images of coloured boxes."""

from dataclasses import replace

import torch
from torch import nn

from dcnlab.models.anchors import RPNSettings
from dcnlab.models.class_aware_rpn import ClassAwareRPN
from dcnlab.models.faster_rcnn import FasterRCNN
from dcnlab.models.fpn import FPNFasterRCNN
from dcnlab.models.rfcn import RFCN
from dcnlab.models.roi_sampling import RoISampling

CHANNELS = 24


class TinyBackbone(nn.Module):
    """Four stages of one convolution each, so that detectors run in milliseconds."""

    def __init__(self, strides: tuple[int, int, int, int] = (4, 8, 8, 8)) -> None:
        super().__init__()
        self.names = ("res2", "res3", "res4", "res5")
        self.strides = dict(zip(self.names, strides, strict=True))
        self.channels = dict.fromkeys(self.names, CHANNELS)
        self.stages = nn.ModuleList()
        before, reached = 3, 1
        for stride in strides:
            step = stride // reached
            padding = max(1, step // 2)
            self.stages.append(nn.Conv2d(before, CHANNELS, 2 * padding + 1, step, padding))
            before, reached = CHANNELS, stride

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        features, found = images, {}
        for name, stage in zip(self.names, self.stages, strict=True):
            features = found[name] = stage(features).relu()
        return found


def scene(height: int, width: int, boxes: list[list[float]], labels: list[int]):
    """An image of random noise with a box of its class's colour for each object, and its target."""
    image = 0.1 * torch.randn(3, height, width, generator=torch.Generator().manual_seed(0))
    for (x1, y1, x2, y2), label in zip(boxes, labels, strict=True):
        image[label - 1, int(y1) : int(y2), int(x1) : int(x2)] += 2
    return image, {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
    }


def two_scenes():
    """Two images of different sizes: two objects of two classes, and one."""
    scenes = [scene(64, 80, [[8, 8, 38, 40], [46, 20, 74, 52]], [1, 2]), scene(72, 64, [[14, 24, 52, 60]], [2])]
    return [image for image, _ in scenes], [target for _, target in scenes]


def four_scenes():
    """The two, and two more: one wide object, and two of the first class."""
    images, targets = two_scenes()
    more = [scene(64, 72, [[6, 22, 66, 50]], [1]), scene(80, 64, [[6, 6, 34, 36], [26, 44, 58, 74]], [1, 1])]
    return images + [image for image, _ in more], targets + [target for _, target in more]


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


RPN_NUMBERS = RPNSettings(scales=(3, 5), hidden_channels=32, allowed_border=None, sampled=64, proposals=40)
SAMPLING = RoISampling(rois=32)


def faster_rcnn(**options):
    return FasterRCNN(TinyBackbone(), 2, channels=16, fc_channels=64, pooled_size=5, rpn=RPN_NUMBERS, **options)


def rfcn(**options):
    return RFCN(TinyBackbone(), 2, channels=32, pooled_size=3, rpn=RPN_NUMBERS, **options)


def fpn(**options):
    numbers = replace(RPN_NUMBERS, scales=(3,))
    backbone = TinyBackbone((4, 8, 16, 32))
    return FPNFasterRCNN(backbone, 2, channels=16, fc_channels=64, pooled_size=5, rpn=numbers, **options)


def class_aware_rpn():
    # With two images to learn from, anchors that take no part are as certain as the others: let there be none.
    numbers = replace(RPN_NUMBERS, positive_iou=0.5, negative_iou=0.5)
    return ClassAwareRPN(TinyBackbone(), 2, channels=32, rpn=numbers)


TWO_STAGE = {"faster_rcnn": faster_rcnn, "rfcn": rfcn, "fpn": fpn}
EVERY = TWO_STAGE | {"class_aware_rpn": class_aware_rpn}


def made(name: str, scale: float = 1.0, seed: int = 0, **options):
    """A detector with weights large enough to tell one place from another."""
    torch.manual_seed(seed)
    model = EVERY[name](**options)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and module.weight.abs().sum() > 0:
            nn.init.kaiming_normal_(module.weight)
            module.weight.data *= scale
    return model.eval()


def same(one, other, **tolerance):
    assert len(one["boxes"]) == len(other["boxes"]) > 0
    for name in ("boxes", "labels", "scores"):
        torch.testing.assert_close(one[name], other[name], **tolerance)
