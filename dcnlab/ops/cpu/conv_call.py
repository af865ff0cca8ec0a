"""A call of deformable convolution on a CPU by columns: its arguments for the loops and the products, and the loops."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from dcnlab.ops.chunk_sizes import CpuChunks
from dcnlab.ops.cpu import deform_conv2d_callbacks as loops
from dcnlab.ops.cpu.base_call import MIN_PIXELS, BaseCall, dtype_of
from dcnlab.ops.cpu.matmul import Factor
from dcnlab.ops.cpu.openmp import parts_of, run
from dcnlab.ops.geometry import ConvArguments


class Call(BaseCall):
    """Arguments of forward and backward by columns, in the form that numba and the products take."""

    def __init__(self, arguments: ConvArguments, chunks: CpuChunks | None) -> None:
        g, weight = arguments.geometry, arguments.weight
        row_bytes = g.taps * g.channels * dtype_of(arguments.input).itemsize
        super().__init__(arguments, chunks, arguments.input.permute(0, 2, 3, 1), g.segments(g.channels), row_bytes)
        # Columns lie tap by tap, a contiguous weight channel by channel: the smaller of both is transposed.
        self.turns = weight.is_contiguous() and g.taps > 1 and g.pixels < g.group_filters
        self.depth = g.taps * (g.channels // g.groups)

    def filters(self, transposed: bool) -> Factor:
        """Each group's filters as (out channels, depth), or transposed."""
        g = self.geometry
        filters = self.weight.to(self.dtype)
        filters = filters if self.turns else filters.permute(0, 2, 3, 1)
        filters = filters.reshape(g.groups, g.group_filters, self.depth)
        filters = filters.contiguous()  # for rows that are not dense oneDNN has nothing but its slowest loop
        return Factor(filters.transpose(1, 2) if transposed else filters, self.rows, -(-g.pixels // self.rows))

    def for_product(self, columns: Tensor) -> Tensor:
        """Columns (rows, taps * channels) as (rows, groups, depth), the depth as the filters'."""
        g = self.geometry
        if self.turns:
            columns = columns.view(-1, g.groups, g.taps, g.channels // g.groups).transpose(2, 3)
        return columns.reshape(-1, g.groups, self.depth)

    def for_loops(self, columns: Tensor) -> Tensor:
        """The inverse of `for_product`, flat."""
        g = self.geometry
        if self.turns:
            columns = columns.view(-1, g.groups, g.channels // g.groups, g.taps).transpose(2, 3)
        return columns.reshape(-1)


def sample(call: Call, start: int, stop: int, columns: Tensor) -> None:
    """Write the columns of output pixels `start` to `stop`."""
    count = stop - start
    numbers = loops.SAMPLE.numbers(count=count, start=start, shared=call.shared, columns=columns.view(-1))
    run(loops.sampling(call.real), numbers, parts_of(count, MIN_PIXELS))


def places_backward(
    call: Call, start: int, stop: int, grad_columns: Tensor, columns: Tensor, grad_places: Tensor
) -> None:
    """Write the gradients of offsets and mask for output pixels `start` to `stop`, and their columns."""
    count = stop - start
    numbers = loops.PLACES_BACKWARD.numbers(
        count=count,
        start=start,
        shared=call.shared,
        grad_columns=grad_columns,
        columns=columns.view(-1),
        grad_places=grad_places,
    )
    run(loops.gradients_of_places(call.real), numbers, parts_of(count, MIN_PIXELS))


def scatter(call: Call, start: int, stop: int, grad_columns: Tensor, grad_pixels: Tensor) -> None:
    """Add a chunk's columns' gradient to the input's: a thread for each image, or for a band of an image's pixels.

    Bands, not some of the channels each: measured, two threads on alternating runs of channels are slower than one.
    """
    g = call.geometry
    area, size = g.out_height * g.out_width, g.height * g.width
    images = list(call.images(start, stop))
    count = -(-torch.get_num_threads() // len(images))
    rows = []
    for image, first, last in images:
        # The bands divide the pixels that the chunk covers; the first and the last take what lies beyond.
        ends = [
            image * size + ((first + (last - first) * band // count) % area) * size // area for band in range(1, count)
        ]
        rows += [(first, last, *band) for band in pairwise((image * size, *ends, (image + 1) * size))]
    bands = torch.tensor(rows)
    numbers = loops.SCATTER.numbers(
        start=start, shared=call.shared, bands=bands, grad_columns=grad_columns, grad_pixels=grad_pixels
    )
    run(loops.scattering(call.real), numbers, len(rows))
