"""Deformable position-sensitive RoI pooling as the authors' kernel is organised: a thread an element, atomics.

A peer for roi_pooling.py: `scalar_psroi.cu` follows the published rules with the work laid out as theirs. On a GPU it
is compiled by CuPy; the tests run the same text on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dcnlab.config.packaged import folder
from dcnlab.ops.cuda.launch import CudaModule, KernelModule
from dcnlab.ops.cuda.source import C_TYPES, prelude_text

THREADS = 512
"""Of a block, as the authors' launch."""

_SIZES = np.dtype(
    [
        ("outputs", np.int64),
        ("scale", np.float64),
        ("gamma", np.float64),
        *(
            (name, np.int32)
            for name in ("batch", "height", "width", "channels", "group", "classes", "bins", "parts", "samples")
        ),
    ],
    align=True,
)


def text(dtype: torch.dtype) -> str:
    """The whole text of the module for maps of one dtype."""
    real = "double" if dtype == torch.float64 else "float"
    types = {"scalar_t": C_TYPES[dtype], "real": real, "index_t": "long long", "VEC": 1, "THREADS": THREADS}
    shared, own = folder("cuda_kernels") / "common.cuh", Path(__file__).with_suffix(".cu")
    parts = (f'#line 1 "{path.name}"\n{path.read_text()}\n' for path in (shared, own))
    return "".join([prelude_text(types), *parts])


@cache
def on_gpu(dtype: torch.dtype) -> CudaModule:
    """The kernels on a GPU."""
    return CudaModule(text(dtype))


class ScalarPool:
    """The peer's forward and backward pass.

    Args:
        output_size: bins along an axis.
        spatial_scale: pixels of the map a pixel of the image.
        group_size: cells along an axis.
        part_size: the offset's cells along an axis.
        samples_per_bin: along an axis.
        gamma: what shifts are multiplied by.
        modules: where the kernels of a dtype come from.
    """

    def __init__(
        self,
        output_size: int,
        spatial_scale: float,
        group_size: int,
        part_size: int,
        samples_per_bin: int,
        gamma: float,
        modules: Callable[[torch.dtype], KernelModule] = on_gpu,
    ) -> None:
        self.bins, self.group = output_size, group_size
        self.settings = (spatial_scale, gamma), (output_size, part_size, samples_per_bin)
        self.modules = modules

    def _launch(
        self, kernel: str, args: list[Tensor | None], input: Tensor, offset: Tensor | None, out: Tensor
    ) -> None:
        classes = 1 if offset is None else offset.shape[1] // 2
        batch, channels, height, width = input.shape
        factors, counts = self.settings
        numbers = (batch, height, width, channels // self.group**2, self.group, classes, *counts)
        sizes = np.array((out.numel(), *factors, *numbers), dtype=_SIZES)[()]
        grid = (-(-out.numel() // THREADS),)
        self.modules(input.dtype).launch(kernel, grid, (THREADS,), [*args, sizes])

    def forward(self, input: Tensor, boxes: Tensor, offset: Tensor | None) -> tuple[Tensor, Tensor]:
        """Pool boxes (R, 5) from maps (N, K * G * G, H, W): (R, K, P, P), and how many samples each element kept."""
        channels = input.shape[1] // self.group**2
        out = input.new_empty(len(boxes), channels, self.bins, self.bins)
        kept = out.new_empty(out.shape, dtype=boxes.dtype)
        self._launch("scalar_pool", [input, boxes, offset, out, kept], input, offset, out)
        return out, kept

    def backward(
        self, grad: Tensor, input: Tensor, boxes: Tensor, offset: Tensor | None, kept: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """The gradients of input and offset."""
        grad_input = torch.zeros_like(input, dtype=boxes.dtype)
        grad_offset = None if offset is None else torch.zeros_like(offset)
        args = [grad, input, boxes, offset, kept, grad_input, grad_offset]
        self._launch("scalar_backward", args, input, offset, grad)
        return grad_input.to(input.dtype), grad_offset
