"""Deformable convolution on CUDA by columns: the kernels of `deform_conv2d.cu` around torch's matrix products.

The backward pass holds one matrix: first the columns, for the weight's gradient, then their gradient.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from dcnlab.ops.cuda import matmul
from dcnlab.ops.cuda.chunks import Chunk
from dcnlab.ops.cuda.conv_call import Bins, Call, Sort
from dcnlab.ops.cuda.conv_variants import ROWS, SOURCE
from dcnlab.ops.geometry import ConvArguments, ConvGradients


def launch_rows(call: Call, kernel: str, chunk: Chunk, *args: Tensor | None) -> None:
    """Launch a kernel that goes over the chunk's rows, ROWS a block."""
    plan, scalars = call.plan, chunk.scalars
    grid = (-(-int(scalars[1]) // ROWS),)
    call.kernels.launch(kernel, grid, plan.rows_block, (*args, plan.chunk_sizes, *scalars))


def sample(call: Call, chunk: Chunk, columns: Tensor, bins: Bins | None = None) -> None:
    """Write the chunk's columns, and count the entries for `bins`."""
    maps = (call.pixels, call.offset, call.mask, columns)
    if bins is None:
        launch_rows(call, "sample", chunk, *maps)
    else:
        launch_rows(call, "sample_and_count", chunk, *maps, bins.begin, bins.counted)


def forward(call: Call, channels_last: bool) -> Tensor:
    """Compute the output, (N, F, Ho, Wo), in the memory format that is asked for."""
    g, plan, bias = call.geometry, call.plan, call.bias
    area = g.out_height * g.out_width
    output = call.empty(g.pixels, g.out_channels) if channels_last else call.empty(g.batch, g.out_channels, area)
    columns = call.empty(plan.most_rows, plan.width)
    for chunk in plan.chunks:
        size = chunk.stop - chunk.start
        sample(call, chunk, columns)
        sampled = columns if size == plan.most_rows else columns[:size]
        if channels_last:
            part = output if size == g.pixels else output[chunk.start : chunk.stop]
            matmul.rows_by_filters(sampled, call.filters, bias, part, g.groups)
        else:
            # The transposed product, so that it is written directly to the output.
            first, images = chunk.start - chunk.first_image * area, chunk.images
            part = output[chunk.first_image : chunk.first_image + images, :, first : first + size // images]
            matmul.filters_by_rows(call.filters, sampled, bias, part, g.groups)
    if channels_last:
        return output.view(g.batch, g.out_height, g.out_width, g.out_channels).permute(0, 3, 1, 2)
    return output.view(g.batch, g.out_channels, g.out_height, g.out_width)


class Backward:
    """One backward pass: its scratch and its results."""

    def __init__(self, call: Call, grad: Tensor, needed: ConvGradients[bool]) -> None:
        g, plan = call.geometry, call.plan
        self.call, self.needed = call, needed
        self.wants_places = needed.offset or needed.mask
        self.grads = grad.permute(0, 2, 3, 1).reshape(g.pixels, g.out_channels)
        self.columns: Tensor | None = call.empty(plan.most_rows, plan.width)
        self.places = call.empty_places(needed)
        self.whole = len(plan.chunks) == 1
        self.filters: Tensor | None = None
        if needed.weight and not plan.chunks:
            self.filters = call.filters.new_zeros(call.filters.shape)
        self.sort: Sort | None = None
        self.pixels: Tensor | None = None
        if needed.input:
            self.sort = Sort(call)
            self.pixels = call.empty(g.batch, g.height, g.width, g.channels, dtype=plan.total)

    def chunk(self, number: int, chunk: Chunk) -> None:
        """Add a chunk's part to all gradients."""
        call, g, plan, size = self.call, self.call.geometry, self.call.plan, chunk.stop - chunk.start
        assert self.columns is not None
        columns = self.columns if size == plan.most_rows else self.columns[:size]
        grads = self.grads if size == g.pixels else self.grads[chunk.start : chunk.stop]
        bins = self.sort.bins(number, chunk) if self.sort is not None and plan.keys else None
        if self.needed.weight:
            sample(call, chunk, columns, bins)
            if self.whole:
                self.filters = call.empty(*call.filters.shape)
                matmul.sums(grads, columns, self.filters, g.groups)
            else:  # of several chunks in full precision
                self.filters = matmul.add_sums(grads, columns, self.filters, call.real, g.groups)
        elif bins is not None:
            call.launch_entries(chunk, bins, None)
        if bins is not None or self.wants_places:
            matmul.rows_by_depth(grads, call.filters, columns, g.groups)
        begin, entries = (None, None) if bins is None else (bins.begin, bins.entries)
        if self.wants_places:
            maps = (columns, call.pixels, call.offset, call.mask, *self.places)
            launch_rows(call, "places_backward", chunk, *maps, begin, entries)
        elif bins is not None:
            call.launch_entries(chunk, bins, entries)
        if bins is not None:
            self._gather(chunk, columns, bins)

    def _gather(self, chunk: Chunk, columns: Tensor, bins: Bins) -> None:
        """Let each key sum its entries."""
        call, plan, pixels = self.call, self.call.plan, self.pixels
        assert pixels is not None
        out = pixels if chunk.images == len(pixels) else pixels[chunk.first_image : chunk.first_image + chunk.images]
        blocks, of_image, block = plan.key_blocks
        kernels = call.kernels if plan.total == call.dtype else call.modules(SOURCE, plan.total_prelude)
        kernels.launch(
            "gather",
            (chunk.images * blocks,),
            block,
            (columns, bins.entries, bins.begin, out, plan.chunk_sizes, of_image, np.int32(chunk.continues)),
        )

    def results(self, arguments: ConvArguments) -> ConvGradients[Tensor | None]:
        """The gradients, in the arguments' dtypes and memory formats; scratch is freed before they are converted."""
        g = self.call.geometry
        self.columns = self.sort = None
        weight = None
        if self.filters is not None:
            weight = self.filters.view(g.out_channels, *g.kernel, g.channels // g.groups).permute(0, 3, 1, 2)
        return self.call.as_given(arguments, self.pixels, self.places, weight)
