"""A call of deformable convolution on CUDA: its arguments and scratch as the kernels want them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from dcnlab.ops import chunk_sizes
from dcnlab.ops.cuda import conv_variants, depthwise_sizes
from dcnlab.ops.cuda.chunks import Chunk
from dcnlab.ops.cuda.conv_plan import plan
from dcnlab.ops.cuda.conv_variants import THREADS
from dcnlab.ops.cuda.launch import KernelModule, ModuleFactory
from dcnlab.ops.cuda.scratch import scratch, zeros
from dcnlab.ops.geometry import ConvArguments, ConvGradients
from dcnlab.ops.layout import memory_format

INT_MAX = 2**31 - 1 - 1024
"""Largest tensor that kernels with 32-bit indices take: a block's last threads may count past its end."""


@dataclass
class Bins:
    """The entries of a chunk, sorted by key."""

    begin: Tensor
    """(images * (keys + 1)) int32: zeros at first."""
    counted: Tensor
    """(images) int32: zeros at first."""
    entries: Tensor


class Call:
    """What all passes share: the plan, and the arguments as the kernels want them.

    Args:
        arguments: of the operator.
        modules: where kernels come from.
        chunk_bytes: the most columns to hold; None: `chunk_sizes.cuda_bytes`.
        sorts: the input's gradient is wanted, so that entries are sorted.
    """

    def __init__(self, arguments: ConvArguments, modules: ModuleFactory, chunk_bytes: int | None, sorts: bool) -> None:
        input, weight, mask = arguments.input, arguments.weight, arguments.mask
        self.geometry, self.modules = arguments.geometry, modules
        self.dtype, self.device = input.dtype, input.device
        self.real = torch.float64 if input.dtype == torch.float64 else torch.float32
        self.pixels = input.permute(0, 2, 3, 1).contiguous()
        self.offset = arguments.offset.to(self.real).contiguous()
        self.mask = None if mask is None else mask.to(self.real).contiguous()
        self.weight, self.bias = weight, arguments.bias
        alignment = math.gcd(self.pixels.data_ptr(), 16)
        limit = chunk_sizes.cuda_bytes() if chunk_bytes is None else chunk_bytes
        self.plan = plan(self.geometry, input.dtype, alignment, sorts, limit, INT_MAX)
        self.is_depthwise = depthwise_sizes.serves(self.geometry)

    @cached_property
    def filters(self) -> Tensor:
        """The weight as (filters, taps * channels of a group): a view where it is channels-last."""
        return self.weight.permute(0, 2, 3, 1).reshape(self.geometry.out_channels, -1)

    @cached_property
    def kernels(self) -> KernelModule:
        """The kernels of the chunks; a fused call needs none."""
        if self.is_depthwise:
            return self.modules(depthwise_sizes.SOURCE, depthwise_sizes.prelude(self.plan.prelude))
        return self.modules(conv_variants.SOURCE, self.plan.prelude)

    def empty(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Scratch, of the input's dtype if none is given."""
        return scratch(shape, dtype or self.dtype, self.device)

    def empty_places(self, needed: ConvGradients[bool]) -> tuple[Tensor | None, Tensor | None]:
        """Memory for the gradients of offset and mask."""
        return (
            scratch(self.offset.shape, self.real, self.device) if needed.offset else None,
            scratch(self.mask.shape, self.real, self.device) if needed.mask and self.mask is not None else None,
        )

    def launch_entries(self, chunk: Chunk, bins: Bins, entries: Tensor | None) -> None:
        """Launch the sort alone, a thread a row: without `entries` it counts, with them it fills the bins."""
        args = (self.offset, self.mask, bins.begin, bins.counted, entries, self.plan.chunk_sizes, *chunk.scalars)
        self.kernels.launch("entries", (-(-int(chunk.scalars[1]) // THREADS),), (THREADS,), args)

    def as_given(
        self, arguments: ConvArguments, pixels: Tensor | None, places: tuple[Tensor | None, ...], weight: Tensor | None
    ) -> ConvGradients[Tensor | None]:
        """Gradients in the arguments' dtypes and memory formats.

        Args:
            arguments: of the operator.
            pixels: (N, H, W, C), of the input.
            places: of offset and mask.
            weight: (F, C / groups, kh, kw).
        """
        input, mask = arguments.input, arguments.mask
        offset_gradient, mask_gradient = places
        return ConvGradients(
            input=None
            if pixels is None
            else pixels.permute(0, 3, 1, 2).to(input.dtype, memory_format=memory_format(input)),
            offset=None if offset_gradient is None else offset_gradient.to(arguments.offset.dtype),
            weight=None if weight is None else weight.to(self.weight.dtype, memory_format=memory_format(self.weight)),
            bias=None,
            mask=None if mask_gradient is None or mask is None else mask_gradient.to(mask.dtype),
        )


class Sort:
    """Scratch in which the entries of each chunk are sorted."""

    def __init__(self, call: Call) -> None:
        plan = call.plan
        self._plan = plan
        self._counters = zeros(len(plan.chunks) * plan.most_images * (plan.keys + 2), torch.int32, call.device)
        self._entries = call.empty(plan.bin_bytes, dtype=torch.uint8)

    def bins(self, number: int, chunk: Chunk) -> Bins:
        """The bins of a chunk; the next chunk reuses the memory of the entries."""
        each, first = self._plan.keys + 1, number * self._plan.most_images * (self._plan.keys + 2)
        begin = self._counters if number == 0 else self._counters[first:]
        return Bins(begin, begin[chunk.images * each :], self._entries)
