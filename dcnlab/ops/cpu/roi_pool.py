"""Both deformable RoI poolings on a CPU; `PoolGeometry` says which of the two rules applies."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dcnlab.ops.cpu import roi_pool_callbacks as loops
from dcnlab.ops.cpu.openmp import parts_of, run
from dcnlab.ops.cpu.roi_pool_kernels import Sizes
from dcnlab.ops.layout import memory_format
from dcnlab.ops.pool_geometry import PoolArguments, PoolGeometry, PoolGradients

BLOCK = 64
"""Channels that one thread takes in the backward pass: fixed, so that no sum depends on the threads."""


class _Call:
    """Arguments of forward and backward in the form that numba takes."""

    def __init__(self, arguments: PoolArguments):
        g = self.geometry = arguments.geometry
        input, boxes, offset = arguments.input, arguments.boxes, arguments.offset
        self.dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
        real = self.real = np.float64 if input.dtype == torch.float64 else np.float32
        offsets = torch.empty(0, 0, 0, 0, dtype=self.dtype) if offset is None else offset.to(self.dtype).contiguous()
        self.cells = cells_of(g.out_height, g.part_height, g, real), cells_of(g.out_width, g.part_width, g, real)
        pixels = g.to_cells(input.to(self.dtype)).view(-1)
        self.arrays = {
            "pixels": pixels,
            "boxes": boxes.to(self.dtype).contiguous(),
            "offset": offsets,
            "parts_y": self.cells[0],
            "parts_x": self.cells[1],
            "sizes": Sizes(g.batch, g.height, g.width, g.channels, g.group_size, g.out_height, g.out_width, g.samples),
            "sensitive": int(g.position_sensitive),
            "factors": torch.tensor((g.scale, g.gamma), dtype=self.dtype),
        }

    def shared(self, segments: Tensor) -> list[int]:
        """What every loop's table has."""
        return loops.SHARED.numbers(segments=segments, **self.arrays)

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


def forward(arguments: PoolArguments) -> Tensor:
    """Compute the output, (R, channels, out height, out width), in the input's memory format."""
    call, input = _Call(arguments), arguments.input
    g = call.geometry
    output = torch.empty(g.rois, g.out_height, g.out_width, g.channels, dtype=call.dtype)
    segments = call.segments(g.class_channels)
    _pool(call, segments, output)
    return output.permute(0, 3, 1, 2).to(input.dtype, memory_format=memory_format(input))


def backward(grad: Tensor, arguments: PoolArguments, needed: PoolGradients[bool]) -> PoolGradients[Tensor | None]:
    """Compute the gradients that are needed."""
    call, input, offset = _Call(arguments), arguments.input, arguments.offset
    g = call.geometry
    wants_offset = needed.offset and offset is not None
    grads = grad.to(call.dtype)
    segments = call.segments(BLOCK)
    # A block holds BLOCK channels, of one class or of several small ones.
    blocks = np.array_split(np.arange(len(segments)), max(1, min(len(segments), g.channels // BLOCK)))
    partial = torch.zeros(len(segments) if wants_offset else 0, g.rois, g.out_height, g.out_width, 2, dtype=call.dtype)
    grad_cells = torch.zeros(input.numel() if needed.input else 0, dtype=call.dtype)
    rows = [
        (image, cell, block[0], block[-1] + 1)
        for image in range(g.batch)
        for cell in range(g.group_size**2)
        for block in blocks
    ]
    _take_back(call, segments, torch.tensor(rows), grads, partial, grad_cells)
    grad_offset = _sum_parts(partial, call).to(offset.dtype) if wants_offset and offset is not None else None
    del call  # the map by cells makes room for its gradient in the input's order
    grad_input = None
    if needed.input:
        grad_input = g.from_cells(grad_cells).to(input.dtype, memory_format=memory_format(input))
    return PoolGradients(grad_input, grad_offset)


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
    boxes = call.geometry.rois
    numbers = loops.POOL.numbers(boxes=boxes, shared=call.shared(segments), output=output.view(-1))
    run(loops.pooling(call.real), numbers, parts_of(boxes, 1))


def _take_back(
    call: _Call, segments: Tensor, blocks: Tensor, grads: Tensor, partial: Tensor, grad_cells: Tensor
) -> None:
    """Backpropagate by image, group cell and block of segments, for an output gradient of any strides."""
    if len(blocks) == 0 or grads.numel() == 0:
        return
    span = 1 + sum((size - 1) * stride for size, stride in zip(grads.shape, grads.stride(), strict=True))
    numbers = loops.BACKWARD.numbers(
        shared=call.shared(segments),
        blocks=blocks,
        grad=(grads.data_ptr(), span),
        strides=grads.stride(),
        partial=partial,
        grad_pixels=grad_cells,
    )
    run(loops.returning(call.real), numbers, len(blocks))
