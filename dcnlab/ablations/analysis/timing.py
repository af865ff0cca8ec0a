"""Seconds of a network for one image: the forward pass alone, and with pre- and postprocessing."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision.transforms.v2 import functional as F

from dcnlab.io.errors import ConfigError
from dcnlab.models.detector import Detector


def usual_device() -> str:
    """The GPU, else the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def clock(device: str) -> float:
    """Seconds, once the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def seconds(
    network: nn.Module,
    size: tuple[int, int],
    file_size: tuple[int, int],
    device: str,
    repeats: int,
    clock: Callable[[str], float] = clock,
) -> tuple[float, float]:
    """Median seconds for one image: of the network alone, and with pre- and postprocessing (paper, table 4).

    Preprocessing: resizing and normalising the photograph on the CPU, and its copy to the device. Postprocessing:
    non-maximum suppression in a detector; else softmax and the best class, in segmentation for each pixel.

    Args:
        network: moved to the device and put into evaluation.
        size: height and width that the network sees, pixels.
        file_size: the same of the photograph.
        device: cpu or cuda.
        repeats: forward passes that the median is of, after one to warm up.
        clock: takes the device, and gives seconds.

    Raises:
        ConfigError: the GPU's memory does not hold it.
    """
    generator = torch.Generator().manual_seed(0)
    photograph = torch.randint(256, (3, *file_size), dtype=torch.uint8, generator=generator)
    alone, total = [], []
    try:
        network = network.to(device).eval()
        for _ in range(1 + repeats):
            start = clock(device)
            with torch.no_grad():
                image = prepared(photograph, size).to(device)
                begun = clock(device)
                output: Any = network.candidates([image]) if isinstance(network, Detector) else network(image[None])
                done = clock(device)
                _result(network, output, file_size)
                end = clock(device)
            alone.append(done - begun)
            total.append(end - start)
    except torch.OutOfMemoryError as error:
        height, width = size
        raise ConfigError(
            f"--size is {height}x{width}, which the GPU's memory does not hold; a smaller one, or --device cpu"
        ) from error
    return statistics.median(alone[1:]), statistics.median(total[1:])


def prepared(photograph: Tensor, size: tuple[int, int]) -> Tensor:
    """A photograph (3, H, W) uint8 as networks take it: (3, h, w) float32, by ImageNet's mean and std."""
    if photograph.shape[-2:] != size:
        photograph = F.resize(photograph, list(size), antialias=True)
    pixels = F.to_dtype(photograph, torch.float32, scale=True)
    return F.normalize(pixels, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def _result(network: nn.Module, output: Any, file_size: tuple[int, int]) -> Any:
    if isinstance(network, Detector):
        return [network.detections.suppress(candidates) for candidates in output]
    if output.ndim == 4:
        output = interpolate(output, file_size, mode="bilinear", align_corners=False)
    return output.softmax(1).argmax(1)
