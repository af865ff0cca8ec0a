"""Deformable convolution on a CPU: columns in chunks that stay in cache, products by oneDNN or MKL."""

from __future__ import annotations

import torch
from torch import Tensor

from dcnlab.ops.chunk_sizes import CpuChunks
from dcnlab.ops.cpu import depthwise, depthwise_call
from dcnlab.ops.cpu.conv_call import Call, places_backward, sample, scatter
from dcnlab.ops.cpu.matmul import grouped_product
from dcnlab.ops.geometry import ConvArguments, ConvGradients
from dcnlab.ops.layout import memory_format


def forward(arguments: ConvArguments, chunks: CpuChunks | None = None) -> Tensor:
    """Compute the output, (N, F, Ho, Wo), in the input's memory format; None: chunks of the default sizes."""
    if depthwise_call.serves(arguments.geometry):
        return depthwise.forward(arguments, chunks)
    call, input, bias = Call(arguments, chunks), arguments.input, arguments.bias
    g = call.geometry
    columns = call.empty(call.rows, g.taps * g.channels)
    layout = memory_format(input)
    output = torch.empty((g.batch, g.out_channels, g.out_height, g.out_width), dtype=call.dtype, memory_format=layout)
    filters = call.filters(transposed=True)
    bias = None if bias is None else bias.to(call.dtype)
    for start, stop in call.chunks():
        sample(call, start, stop, columns)
        call.store(start, stop, filters.product(call.for_product(columns[: stop - start]), bias), output)
    return output.to(input.dtype)


def backward(
    grad: Tensor, arguments: ConvArguments, needed: ConvGradients[bool], chunks: CpuChunks | None = None
) -> ConvGradients[Tensor | None]:
    """Compute the gradients that are needed, but for the bias's."""
    if depthwise_call.serves(arguments.geometry):
        return depthwise.backward(grad, arguments, needed, chunks)
    call = Call(arguments, chunks)
    g = call.geometry
    wants_places = needed.offset or needed.mask
    grads = grad.to(call.dtype).permute(0, 2, 3, 1).contiguous().view(g.pixels, g.groups, g.group_filters)
    filters = call.filters(transposed=False) if needed.input or wants_places else None
    width = g.taps * g.channels

    grad_pixels = torch.zeros(g.batch * g.height * g.width * g.channels if needed.input else 0, dtype=call.dtype)
    grad_places = call.empty(g.pixels if wants_places else 0, g.taps, g.offset_groups, 3)
    grad_filters = call.empty(g.groups if needed.weight else 0, g.group_filters, call.depth)
    if g.pixels == 0:
        grad_filters.zero_()
    columns = call.empty(call.rows if needed.weight else 0, width)
    piece = max(1, call.sizes.filters_bytes // max(1, call.depth * call.dtype.itemsize))

    for start, stop in call.chunks():
        size = stop - start
        grad_columns = call.empty(0) if filters is None else call.for_loops(filters.product(grads[start:stop]))
        if wants_places:
            places_backward(call, start, stop, grad_columns, columns, grad_places)
        elif needed.weight:
            sample(call, start, stop, columns)
        if needed.input:
            scatter(call, start, stop, grad_columns, grad_pixels)
        del grad_columns
        if needed.weight:
            sampled = call.for_product(columns[:size]).transpose(0, 1)
            for first in range(0, g.group_filters, piece):
                some = slice(first, first + piece)
                summand = grouped_product(grads[start:stop, :, some].permute(2, 1, 0), sampled).transpose(0, 1)
                if start == 0:
                    grad_filters[:, some] = summand
                else:
                    grad_filters[:, some] += summand
    del filters, columns
    channels = g.channels // g.groups
    by_filter = grad_filters.view(-1, channels, *g.kernel) if call.turns else grad_filters.view(-1, *g.kernel, channels)
    maps = grad_pixels.view(g.batch if needed.input else 0, g.height, g.width, g.channels).permute(0, 3, 1, 2)
    return call.results(
        arguments, needed, maps, grad_places, by_filter if call.turns else by_filter.permute(0, 3, 1, 2)
    )
