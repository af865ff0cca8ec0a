"""Both deformable RoI poolings on a CPU; the rule is the geometry's."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dcnlab.ops.cpu.openmp import numbers_of, parts_of, run
from dcnlab.ops.layout import memory_format
from dcnlab.ops.pool_geometry import PoolGeometry

BLOCK = 64
"""Channels that one thread takes in the backward pass: fixed, so that no sum depends on the threads."""


class _Call:
    """Arguments of forward and backward in the form that numba takes."""

    def __init__(self, input: Tensor, boxes: Tensor, offset: Tensor | None, geometry: PoolGeometry):
        g = self.geometry = geometry
        self.dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
        real = self.real = np.float64 if input.dtype == torch.float64 else np.float32
        shift = torch.empty(0, 0, 0, 0, dtype=self.dtype) if offset is None else offset.to(self.dtype).contiguous()
        self.cells = cells_of(g.out_height, g.part_height, g, real), cells_of(g.out_width, g.part_width, g, real)
        pixels = g.to_cells(input.to(self.dtype)).view(-1)
        self.tensors = (pixels, boxes.to(self.dtype).contiguous(), shift, *self.cells)
        sizes = (g.batch, g.height, g.width, g.channels, g.group_size, g.out_height, g.out_width, g.samples)
        self.factors = torch.tensor((g.scale, g.gamma), dtype=self.dtype)
        self.rest = (*sizes, int(g.position_sensitive), *numbers_of(self.factors))

    def numbers(self, segments: Tensor) -> list[int]:
        """What every loop's table begins with."""
        return [self.geometry.rois, *numbers_of(*self.tensors, segments), *self.rest]

    def segments(self, longest: int) -> Tensor:
        """Runs of channels within one class: (first channel, length, class), the same number for each class."""
        each = self.geometry.class_channels
        return torch.tensor(
            [
                (class_of * each + first, min(longest, each - first), class_of)
                for class_of in range(self.geometry.classes)
                for first in range(0, each, longest)
            ]
        )


def cells_of(bins: int, parts: int, geometry: PoolGeometry, real: type[np.floating]) -> Tensor:
    """Which of the offset's cells each bin along an axis takes; rounded as the authors' kernel rounds it."""
    number = np.arange(bins)
    if geometry.position_sensitive:
        number = np.floor(number.astype(real) / real(bins) * real(parts)).astype(np.int64)
    return torch.from_numpy(number)


def forward(input: Tensor, boxes: Tensor, offset: Tensor | None, geometry: PoolGeometry) -> Tensor:
    """Compute the output, (R, channels, out height, out width), in the input's memory format."""
    g, call = geometry, _Call(input, boxes, offset, geometry)
    output = torch.empty(g.rois, g.out_height, g.out_width, g.channels, dtype=call.dtype)
    segments = call.segments(g.class_channels)
    _pool(call, segments, output)
    return output.permute(0, 3, 1, 2).to(input.dtype, memory_format=memory_format(input))


def backward(
    grad: Tensor,
    input: Tensor,
    boxes: Tensor,
    offset: Tensor | None,
    geometry: PoolGeometry,
    needed: tuple[bool, bool],
) -> tuple[Tensor, Tensor]:
    """Compute the gradients of input and offset; those not needed come back empty."""
    g, call = geometry, _Call(input, boxes, offset, geometry)
    wants_offset = needed[1] and offset is not None
    grads = grad.to(call.dtype)
    segments = call.segments(BLOCK)
    # A block holds BLOCK channels, of one class or of several small ones.
    blocks = np.array_split(np.arange(len(segments)), max(1, min(len(segments), g.channels // BLOCK)))
    partial = torch.zeros(len(segments) if wants_offset else 0, g.rois, g.out_height, g.out_width, 2, dtype=call.dtype)
    grad_cells = torch.zeros(input.numel() if needed[0] else 0, dtype=call.dtype)
    parts = [
        (image, cell, block[0], block[-1] + 1)
        for image in range(g.batch)
        for cell in range(g.group_size**2)
        for block in blocks
    ]
    _take_back(call, segments, torch.tensor(parts), grads, partial, grad_cells)
    grad_offset = _sum_parts(partial, call).to(offset.dtype) if wants_offset and offset is not None else None
    del call  # the map by cells makes room for its gradient in the input's order
    grad_input = input.new_empty(0)
    if needed[0]:
        grad_input = g.from_cells(grad_cells).to(input.dtype, memory_format=memory_format(input))
    return grad_input, input.new_empty(0) if grad_offset is None else grad_offset


def _sum_parts(partial: Tensor, call: _Call) -> Tensor:
    """Add up the segments of each class and the bins of each part: (R, 2 * classes, parts y, parts x)."""
    g = call.geometry
    by_class = partial.view(g.classes, len(partial) // g.classes, *partial.shape[1:]).sum(1)
    bins = by_class.permute(1, 0, 4, 2, 3)
    parts_y, parts_x = call.cells
    rows = bins.new_zeros(*bins.shape[:3], g.part_height, g.out_width).index_add_(3, parts_y, bins)
    cells = bins.new_zeros(*bins.shape[:3], g.part_height, g.part_width).index_add_(4, parts_x, rows)
    return cells.view(g.rois, 2 * g.classes, g.part_height, g.part_width)


def _pool(call: _Call, segments: Tensor, output: Tensor) -> None:
    from dcnlab.ops.cpu import roi_pool_kernels as kernels

    own = numbers_of(output.view(-1))
    run(kernels.pooling(call.real), [*call.numbers(segments), *own], parts_of(call.geometry.rois, 1))


def _take_back(
    call: _Call, segments: Tensor, parts: Tensor, grads: Tensor, partial: Tensor, grad_cells: Tensor
) -> None:
    """Take the gradient of each (image, group cell, block of segments) back, wherever it lies in memory."""
    from dcnlab.ops.cpu import roi_pool_kernels as kernels

    if len(parts) == 0 or grads.numel() == 0:
        return
    span = 1 + sum((size - 1) * stride for size, stride in zip(grads.shape, grads.stride(), strict=True))
    of_grads = [grads.data_ptr(), span, *grads.stride()]
    own = [*numbers_of(parts), *of_grads, *numbers_of(partial, grad_cells)]
    run(kernels.returning(call.real), [*call.numbers(segments), *own], len(parts))
