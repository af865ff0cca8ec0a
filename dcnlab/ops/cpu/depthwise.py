"""Deformable convolution with few channels a group on a CPU, depthwise above all: without columns or products.

The columns' products would be as many as there are groups, each with a thin matrix. Here a tap's pixels are blended and
multiplied by the tap's weights for all groups of an offset group at once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dcnlab.ops.chunk_sizes import CpuChunks
from dcnlab.ops.cpu.depthwise_call import Call
from dcnlab.ops.geometry import ConvArguments, ConvGradients
from dcnlab.ops.layout import empty_map, memory_format


def forward(arguments: ConvArguments, chunks: CpuChunks | None = None) -> Tensor:
    """Compute the output of a call that `depthwise_call.serves`, as deform_conv2d's forward does."""
    call, input, bias = Call(arguments, chunks), arguments.input, arguments.bias
    g = call.geometry
    shape = (g.batch, g.out_channels, g.out_height, g.out_width)
    output = empty_map(input, shape, memory_format(input))
    bias = torch.zeros(g.out_channels) if bias is None else bias
    bias = bias.to(call.dtype).view(g.groups, g.group_filters).t().contiguous().view(-1)
    if g.group_filters == 1 and output.dtype == call.dtype and memory_format(output) == torch.channels_last:
        call.forward(0, g.pixels, bias, output.permute(0, 2, 3, 1))
        return output
    rows = call.empty(call.rows, g.group_filters, g.groups)
    for start, stop in call.chunks():
        call.forward(start, stop, bias, rows)
        call.store(start, stop, rows[: stop - start].transpose(1, 2), output)
    return output


def backward(
    grad: Tensor, arguments: ConvArguments, needed: ConvGradients[bool], chunks: CpuChunks | None = None
) -> ConvGradients[Tensor | None]:
    """Compute the gradients that are needed, but for the bias's, likewise."""
    call = Call(arguments, chunks)
    g, runs = call.geometry, len(call.runs)
    wants_places = needed.offset or needed.mask
    grads = call.by_filter(grad)
    grad_pixels = torch.zeros(g.batch * g.height * g.width * g.channels if needed.input else 0, dtype=call.dtype)
    bands = max((len(call.bands(*chunk)) for chunk in call.chunks()), default=1)
    of_bands = torch.zeros(bands, call.filters.numel() if needed.weight else 0, dtype=call.dtype)
    grad_places = call.empty(g.pixels if wants_places else 0, g.taps, g.offset_groups, 3)
    of_runs = call.empty(runs, call.rows if wants_places else 0, g.taps, 3)
    for start, stop in call.chunks():
        call.backward(start, stop, grads, grad_pixels, of_bands, of_runs)
        if wants_places:
            parts = of_runs[:, : stop - start].unflatten(0, (g.offset_groups, -1)).permute(1, 2, 3, 0, 4)
            grad_places[start:stop] = _sum(parts)
    batch = g.batch if needed.input else 0
    maps = grad_pixels.view(batch, g.height, g.width, call.channels, g.groups).permute(0, 4, 3, 1, 2)
    filters = (
        _sum(of_bands)
        .view(g.group_filters if needed.weight else 0, call.channels, *g.kernel, g.groups)
        .permute(4, 0, 1, 2, 3)
    )
    return call.results(arguments, needed, maps.flatten(1, 2), grad_places, filters.flatten(0, 1))


def _sum(parts: Tensor) -> Tensor:
    """The sum along the first axis, one after another: a sum of torch's may depend on the number of threads."""
    total = parts[0]
    for part in parts[1:]:
        total += part
    return total
