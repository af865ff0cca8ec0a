"""What Python costs on the way to a GPU, measured without one, and a model of what that means.

    python benchmarks/cuda_host.py            # needs CuPy, gcc and x86-64 Linux; a minute

Microseconds of processor time from the public function to the driver: CuPy launches on the stand-in driver of
tests/helpers/host_cuda, products are stubbed, maps are tiny, so that nothing but the host's work is left. A pass is
cut into as many chunks as at full size. The second table compares them with a MODEL of the GPU's time, which nobody
has measured: bytes through the second-level cache by the counts of `traffic.py`, products at four fifths of the peak.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor

from dcnlab import ops
from dcnlab.ops import chunk_sizes
from dcnlab.ops.cuda import chunks
from dcnlab.ops.geometry import ConvArguments, ConvGeometry, ConvGradients

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "helpers" / "host_cuda"))

Work = Callable[[], object]
SHAPES = (
    *((512, 38, 63, 1), (512, 64, 64, 1), (512, 64, 64, 2), (512, 64, 64, 8), (256, 128, 128, 1)),
    *((128, 128, 128, 1), (64, 256, 256, 1), (128, 64, 64, 8)),
)
"""Channels, height, width, batch."""


@dataclass(frozen=True)
class Device:
    """Figures of a GPU's data sheet, and its second-level cache's rate as others have measured it."""

    multiprocessors: int
    flops: float
    cache_rate: float
    memory_rate: float
    cache_bytes: float


DEVICES = {
    "H200": Device(132, 790e12, 5.5e12, 4.3e12, 50e6),
    "A100": Device(108, 260e12, 3.5e12, 1.6e12, 40e6),
}
PER_ELEMENT = {"sample": 57.5, "places_backward": 58.3, "gather": 44.4}
"""Bytes through the second-level cache for an element of the map, bfloat16, 3x3 (`traffic.py`, `blocks`, 38x63)."""


@cache
def _on_driver() -> contextlib.ExitStack:
    """Put the stand-in driver under this process, for good: launches are only counted, products compute nothing."""
    import driver
    import metering

    driver.install().executes(False)
    driver.let_public_functions_take_cuda()
    stubs = contextlib.ExitStack()
    stubs.enter_context(metering.stubbed_products())
    return stubs


def _leaves(batch: int = 1) -> list[Tensor]:
    """Input, offset and weight of a small 3x3 layer, channels-last, bfloat16."""
    _on_driver()
    layout = torch.channels_last
    input = torch.zeros(batch, 8, 8, 8, dtype=torch.bfloat16).to(memory_format=layout)
    weight = torch.zeros(8, 8, 3, 3, dtype=torch.bfloat16).to(memory_format=layout)
    return [input, torch.zeros(batch, 18, 8, 8), weight]


def conv_forward() -> Work:
    """Inference of the operator, from the public function to the driver."""
    input, offset, weight = _leaves()
    return lambda: ops.deform_conv2d(input, offset, weight, padding=1)


def conv_both() -> Work:
    """The operator with all three gradients."""
    leaves = [leaf.requires_grad_() for leaf in _leaves()]
    grad = torch.zeros_like(leaves[0])
    return lambda: torch.autograd.grad(ops.deform_conv2d(*leaves, padding=1), leaves, grad)


def pool_both() -> Work:
    """The authors' RoI pooling with both gradients."""
    _on_driver()
    boxes = torch.tensor([[0.0, 1.0, 1.0, 6.0, 6.0]])
    leaves = [torch.zeros(1, 4 * 8, 8, 8).requires_grad_(), torch.zeros(1, 2, 2, 2).requires_grad_()]
    grad = torch.zeros(1, 8, 2, 2)

    def both() -> object:
        output = ops.deform_ps_roi_pool(leaves[0], boxes, leaves[1], 2, group_size=2)
        return torch.autograd.grad(output, leaves, grad)

    return both


def microseconds(work: Work, rounds: int = 60, calls: int = 30) -> float:
    """The least processor time of a call, for what else the machine does only adds."""
    for _ in range(10):
        work()
    least = math.inf
    for _ in range(rounds):
        start = time.process_time()
        for _ in range(calls):
            work()
        least = min(least, (time.process_time() - start) / calls)
    return 1e6 * least


def host_microseconds(parts: int) -> tuple[float, float]:
    """The forward and the backward pass in so many chunks, without autograd and the public function's checks."""
    from dcnlab.ops.cuda import deform_conv2d as cuda
    from dcnlab.ops.cuda.launch import module

    input, offset, weight = _leaves(parts)
    arguments = ConvArguments(input, offset, weight, None, (1, 1), (1, 1), (1, 1), None)
    size, grad, needed = 64 * 9 * 8 * 2, torch.zeros_like(input), ConvGradients(True, True, True, False, False)
    return (
        microseconds(lambda: cuda.forward(arguments, module, size)),
        microseconds(lambda: cuda.backward(grad, arguments, needed, module, size)),
    )


def parts_of(shape: tuple[int, int, int, int], backward: bool) -> list[int]:
    """Output pixels of each chunk of a pass at full size, bfloat16."""
    channels, height, width, batch = shape
    maps = (batch, channels, height, width)
    geometry = ConvGeometry(*maps, channels, height, width, (3, 3), (1, 1), (1, 1), (1, 1), 1, 1)
    most = chunks.torchvision_bytes(geometry, torch.bfloat16, backward)
    limit = chunks.row_limit(18 * channels, 288 if backward else 0, chunk_sizes.cuda_bytes(), most)
    return [chunk.stop - chunk.start for chunk in chunks.cut(geometry, limit)]


def modelled_microseconds(device: Device, channels: int, parts: list[int], backward: bool) -> float:
    """The model of the GPU's time, bfloat16."""

    def product(rows: int, columns: int, depth: int) -> float:
        tiles = math.ceil(rows / 128) * math.ceil(columns / 128)
        used = max(0.55, tiles / (math.ceil(tiles / device.multiprocessors) * device.multiprocessors))
        return 2 * rows * columns * depth / (device.flops * used * 0.8)

    total = 2.5e-6 if backward else 0.0  # the counters' fill
    for rows in parts:
        columns = 18 * channels * rows
        through_memory = columns / device.memory_rate if columns > device.cache_bytes else 0.0

        def kernel(name: str, rows: int = rows, least: float = through_memory) -> float:
            return max(PER_ELEMENT[name] * rows * channels / device.cache_rate, least) + 2.5e-6

        times = [product(rows, channels, 9 * channels)]
        total += kernel("sample")
        if backward:
            times = [product(rows, 9 * channels, channels), product(channels, 9 * channels, rows)]
            total += kernel("places_backward") + kernel("gather")
        total += sum(max(time, through_memory) + 2e-6 for time in times)
        if len(parts) > 1 and backward:
            total += 3 * 36 * channels**2 / device.cache_rate + 2.5e-6
    return 1e6 * total


def main() -> None:
    """Measure, model, print."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    public = {"forward": conv_forward(), "forward and backward": conv_both(), "pooling, both": pool_both()}
    print(tabulate([[name, microseconds(work)] for name, work in public.items()], ["public function", "us"]))
    hosts: dict[int, tuple[float, float]] = {}
    rows: list[list[Any]] = []
    for channels, height, width, batch in SHAPES:
        row: list[Any] = [f"{channels}x{height}x{width} n{batch}"]
        for backward in (False, True):
            parts = parts_of((channels, height, width, batch), backward)
            if len(parts) not in hosts:
                hosts[len(parts)] = host_microseconds(len(parts))
            host = hosts[len(parts)][backward]
            gpus = [modelled_microseconds(device, channels, parts, backward) for device in DEVICES.values()]
            row += [len(parts), host, *gpus]
        rows.append(row)
    names = ["chunks", "host us", *(f"{name} us, model" for name in DEVICES)]
    print(tabulate(rows, ["shape", *(f"{p} {n}" for p in ("fwd", "bwd") for n in names)], floatfmt=".0f"))


if __name__ == "__main__":
    main()
