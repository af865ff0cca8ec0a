"""What the detectors' tests share: a backbone of four convolutions and images of coloured boxes."""

import torch
from torch import nn

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
            self.stages.append(nn.Conv2d(before, CHANNELS, 2 * (step // 2) + 1, step, step // 2))
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


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
