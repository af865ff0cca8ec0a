"""Deformable convolution on CUDA: by depthwise kernels, by one fused kernel, or by columns in chunks.

A call holds the columns of as many output pixels as its budget allows (`chunk_sizes.py`), of the whole batch if it can:
two launches forward and six backward, products included. Nothing here asks the GPU for a value, and all scratch is
torch's, so calls can be captured in a CUDA graph. The host-run tests call the same functions on CPU tensors with
kernels compiled by g++.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dcnlab.ops.cuda import conv_columns, depthwise, fused, fused_dispatch
from dcnlab.ops.cuda.conv_call import Call
from dcnlab.ops.cuda.launch import ModuleFactory, module, on_stream
from dcnlab.ops.geometry import ConvArguments, ConvGradients
from dcnlab.ops.layout import memory_format


def forward(arguments: ConvArguments, modules: ModuleFactory = module, chunk_bytes: int | None = None) -> Tensor:
    """Compute the output, (N, F, Ho, Wo), in the input's memory format.

    Args:
        arguments: of the operator.
        modules: where kernels come from.
        chunk_bytes: the most columns to hold; None: `chunk_sizes.cuda_bytes`.
    """
    layout = memory_format(arguments.input)
    with on_stream(arguments.input):
        call = Call(arguments, modules, chunk_bytes, sorts=False)
        g = call.geometry
        if call.is_depthwise:
            pixels = depthwise.forward(call)
        elif fused_dispatch.serves(call.pixels, call.filters, g):
            pixels = fused.forward(call)
        else:
            return conv_columns.forward(call, layout == torch.channels_last)
        by_image = pixels.view(g.batch, g.out_height, g.out_width, g.out_channels).permute(0, 3, 1, 2)
        return by_image.to(memory_format=layout)


def backward(
    grad: Tensor,
    arguments: ConvArguments,
    needed: ConvGradients[bool],
    modules: ModuleFactory = module,
    chunk_bytes: int | None = None,
) -> ConvGradients[Tensor | None]:
    """Compute the gradients that are needed, but for the bias's.

    Args:
        grad: (N, F, Ho, Wo).
        arguments: of the operator.
        needed: which gradients.
        modules: where kernels come from.
        chunk_bytes: the most columns to hold; None: `chunk_sizes.cuda_bytes`.
    """
    with on_stream(grad):
        call = Call(arguments, modules, chunk_bytes, sorts=needed.input)
        if call.is_depthwise:
            return depthwise.Backward(call, grad, needed).results(arguments)
        work = conv_columns.Backward(call, grad, needed)
        for number, chunk in enumerate(call.plan.chunks):
            work.chunk(number, chunk)
        return work.results(arguments)
