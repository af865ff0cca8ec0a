"""Depthwise deformable convolution on CUDA: `cuda_kernels/deform_conv2d_depthwise.cu`, without columns.

Matrix products of one channel a group would be as many as there are channels, each of a vector. Here a thread takes the
channels of a 16-byte load, and a sampling location serves all channels of its offset group. The plan of the call, its
chunks and its sort are `deform_conv2d.py`'s; chunks are whole images, and the whole batch where its entries fit.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from dcnlab.ops.cuda.chunks import Chunk
from dcnlab.ops.cuda.compile import Prelude
from dcnlab.ops.cuda.launch import KernelModule, ModuleFactory
from dcnlab.ops.cuda.scratch import zeros
from dcnlab.ops.geometry import ConvGeometry

RUN = 64
"""Output pixels of which a block sums the weight's gradient."""

SOURCE = "deform_conv2d_depthwise.cu"
_Grads = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]


class Call(Protocol):
    """What is used of a call of `deform_conv2d.py`."""

    geometry: ConvGeometry
    dtype: torch.dtype
    real: torch.dtype
    device: torch.device
    pixels: Tensor
    offset: Tensor
    mask: Tensor | None
    plan: Any
    modules: ModuleFactory

    def empty(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Scratch."""


def prelude(of_columns: Prelude) -> Prelude:
    """What a variant defines, given what the same one with columns does."""
    return {**{name: value for name, value in of_columns.items() if name != "ROWS"}, "RUN": RUN}


def serves(geometry: ConvGeometry) -> bool:
    """Whether these kernels compute the call: each channel is a group, and 32 bits count an image's entries."""
    g = geometry
    entries = 4 * g.taps * g.offset_groups * g.out_height * g.out_width
    return g.groups == g.channels > 1 and g.out_channels > 0 and entries < 2**31


def multiplier(geometry: ConvGeometry) -> int:
    """Filters that read a channel."""
    return geometry.out_channels // geometry.channels


def run(geometry: ConvGeometry) -> int:
    """Channels next to each other that the kernels read alike."""
    return 1 if multiplier(geometry) > 1 else geometry.channels // geometry.offset_groups


def largest(geometry: ConvGeometry) -> int:
    """Elements of the largest of the tensors that only these kernels have."""
    g = geometry
    rows = g.pixels * g.taps * g.offset_groups
    return max(rows, g.pixels * g.out_channels, -(-g.pixels // RUN) * g.taps * g.out_channels)


def forward(call: Call, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute the output's pixels, (N * Ho * Wo, F).

    Args:
        call: `serves` must have said yes.
        weight: (F, 1, kh, kw).
        bias: (F,).
    """
    g = call.geometry
    output = call.empty(g.pixels, g.out_channels)
    if not g.pixels:
        return output
    packs = g.out_channels // g.offset_groups // call.plan.prelude["VEC"]
    lanes, rows = _block(packs, int(call.plan.prelude["THREADS"]))
    _kernels(call).launch(
        "depthwise",
        (-(-g.pixels // rows) * g.offset_groups * -(-packs // lanes),),
        (lanes, rows),
        (
            *(call.pixels, call.offset, call.mask, _taps_first(weight)),
            *(None if bias is None else _aligned(bias), output),
            *(call.plan.chunk_sizes, np.int64(g.pixels), np.int32(multiplier(g))),
        ),
    )
    return output


class Backward:
    """One backward pass: its scratch and its results.

    Args:
        call: `serves` must have said yes.
        grad: (N, F, Ho, Wo).
        weight: (F, 1, kh, kw).
        needed: which gradients: of input, offset, mask and weight.
    """

    def __init__(self, call: Call, grad: Tensor, weight: Tensor, needed: tuple[bool, bool, bool, bool]) -> None:
        g, plan = call.geometry, call.plan
        self.call, self.weight = call, weight
        self.grads = _aligned(grad.permute(0, 2, 3, 1).reshape(g.pixels, g.out_channels))
        self.filters, self.kernels = _taps_first(weight), _kernels(call)
        self.pixels = call.empty(g.batch, g.height, g.width, g.channels) if needed[0] else None
        self.places = (
            call.empty(*call.offset.shape, dtype=call.real) if needed[1] else None,
            call.empty(*call.mask.shape, dtype=call.real) if needed[2] and call.mask is not None else None,
        )
        runs = -(-g.pixels // RUN)
        self.runs = call.empty(runs, g.out_channels, g.taps, dtype=call.real) if needed[3] else None
        self.wants_places = runs > 0 and any(needed[1:])
        self.counters = self.entries = None
        if self.pixels is not None:
            self.counters = zeros(len(plan.chunks) * plan.most_images * (plan.keys + 2), torch.int32, call.device)
            self.entries = call.empty(plan.bin_bytes, dtype=torch.uint8)

    def compute(self) -> _Grads:
        """Compute the gradients as the kernels leave them: of pixels, offset, mask and weight."""
        chunks = self.call.plan.chunks
        together = len(chunks) == 1 and self.wants_places  # the sort and the locations in one pass
        if self.wants_places and not together:
            self._places(None)
        if self.pixels is not None and self.pixels.numel():
            for number, chunk in enumerate(chunks):
                self._input(number, chunk, together)
        elif together:
            self._places(None)
        if self.pixels is not None and not chunks:
            self.pixels.zero_()
        return self.pixels, *self.places, None if self.runs is None else self.runs.sum(0).view(self.weight.shape)

    def _places(self, begin: Tensor | None) -> None:
        """The gradients of offset, mask and weight; with `begin`, where bins end as yet, the bins are filled too."""
        call, g = self.call, self.call.geometry
        entries = None if begin is None else self.entries
        runs = -(-g.pixels // RUN)
        self.kernels.launch(
            "depthwise_places_backward",
            (runs * g.taps * g.offset_groups,),
            _block(g.out_channels // g.offset_groups // call.plan.prelude["VEC"], int(call.plan.prelude["THREADS"])),
            (
                *(self.grads, call.pixels, call.offset, call.mask, self.filters, *self.places, self.runs),
                *(begin, entries, call.plan.chunk_sizes, np.int64(g.pixels), np.int32(multiplier(g))),
            ),
        )

    def _input(self, number: int, chunk: Chunk, together: bool) -> None:
        """Put a chunk's entries into bins by input pixel, and let each input pixel sum its own."""
        call, plan = self.call, self.call.plan
        assert self.counters is not None
        assert self.pixels is not None
        begin = self.counters[number * plan.most_images * (plan.keys + 2) :]
        counted = begin[chunk.images * (plan.keys + 1) :]
        threads = int(plan.prelude["THREADS"])
        grid, block = (-(-int(chunk.scalars[1]) // threads),), (threads,)

        def sort(entries: Tensor | None) -> None:
            args = (call.offset, call.mask, begin, counted, entries, plan.chunk_sizes, *chunk.scalars)
            self.kernels.launch("entries", grid, block, args)

        sort(None)
        if together:
            self._places(begin)
        else:
            sort(self.entries)
        blocks, of_image, block_of_keys = plan.key_blocks
        images = slice(chunk.first_image, chunk.first_image + chunk.images)
        self.kernels.launch(
            "depthwise_gather",
            (chunk.images * blocks,),
            block_of_keys,
            (
                *(self.grads[chunk.start :], self.filters, self.entries, begin, self.pixels[images]),
                *(plan.chunk_sizes, of_image, np.int32(multiplier(call.geometry))),
            ),
        )


def _kernels(call: Call) -> KernelModule:
    return call.modules(SOURCE, prelude(call.plan.prelude))


def _taps_first(weight: Tensor) -> Tensor:
    """The weight as (taps, F)."""
    return weight.reshape(weight.shape[0], weight.shape[2] * weight.shape[3]).t().contiguous()


def _aligned(tensor: Tensor) -> Tensor:
    """Contiguous, at an address that may be read 16 bytes at a time."""
    tensor = tensor.contiguous()
    return tensor if tensor.data_ptr() % 16 == 0 else tensor.clone()


def _block(packs: int, threads: int) -> tuple[int, int]:
    """Threads over so many loads, a power of two, and over pixels."""
    lanes = min(32, 1 << (packs - 1).bit_length())
    return lanes, threads // lanes
