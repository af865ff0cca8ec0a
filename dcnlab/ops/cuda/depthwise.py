"""Depthwise deformable convolution on CUDA: `cuda_kernels/deform_conv2d_depthwise.cu`, without columns.

Matrix products of one channel a group would be as many as there are channels, each of a vector. Here a thread takes the
channels of a 16-byte load, and a sampling location serves all channels of its offset group. Chunks are whole images,
and the whole batch where its entries fit.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from dcnlab.ops.cuda.chunks import Chunk
from dcnlab.ops.cuda.conv_call import Bins, Call, Sort
from dcnlab.ops.cuda.conv_variants import THREADS
from dcnlab.ops.cuda.depthwise_sizes import RUN, multiplier
from dcnlab.ops.geometry import ConvArguments, ConvGradients


def forward(call: Call) -> Tensor:
    """Compute the output's pixels, (N * Ho * Wo, F), of a call that `depthwise_sizes.serves` lets pass."""
    g, bias = call.geometry, call.bias
    output = call.empty(g.pixels, g.out_channels)
    if not g.pixels:
        return output
    packs = _packs(call)
    lanes, rows = _block(packs)
    call.kernels.launch(
        "depthwise",
        (-(-g.pixels // rows) * g.offset_groups * -(-packs // lanes),),
        (lanes, rows),
        (
            *(call.pixels, call.offset, call.mask, _taps_first(call.weight)),
            *(None if bias is None else _aligned(bias), output),
            *(call.plan.chunk_sizes, np.int64(g.pixels), np.int32(multiplier(g))),
        ),
    )
    return output


class Backward:
    """One backward pass: its scratch and its results.

    Args:
        call: `depthwise_sizes.serves` lets it pass.
        grad: (N, F, Ho, Wo).
        needed: which gradients.
    """

    def __init__(self, call: Call, grad: Tensor, needed: ConvGradients[bool]) -> None:
        g = call.geometry
        self.call = call
        self.grads = _aligned(grad.permute(0, 2, 3, 1).reshape(g.pixels, g.out_channels))
        self.filters = _taps_first(call.weight)
        self.pixels = call.empty(g.batch, g.height, g.width, g.channels) if needed.input else None
        self.places = call.empty_places(needed)
        runs = -(-g.pixels // RUN)
        self.runs = call.empty(runs, g.out_channels, g.taps, dtype=call.real) if needed.weight else None
        self.wants_places = runs > 0 and (needed.offset or needed.mask or needed.weight)
        self.sort = None if self.pixels is None else Sort(call)

    def results(self, arguments: ConvArguments) -> ConvGradients[Tensor | None]:
        """Compute the gradients, in the arguments' dtypes and memory formats."""
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
        weight = None if self.runs is None else self.runs.sum(0).view(self.call.weight.shape)
        return self.call.as_given(arguments, self.pixels, self.places, weight)

    def _places(self, bins: Bins | None) -> None:
        """The gradients of offset, mask and weight; with `bins`, they are filled too."""
        call, g = self.call, self.call.geometry
        begin, entries = (None, None) if bins is None else (bins.begin, bins.entries)
        runs = -(-g.pixels // RUN)
        call.kernels.launch(
            "depthwise_places_backward",
            (runs * g.taps * g.offset_groups,),
            _block(_packs(call)),
            (
                *(self.grads, call.pixels, call.offset, call.mask, self.filters, *self.places, self.runs),
                *(begin, entries, call.plan.chunk_sizes, np.int64(g.pixels), np.int32(multiplier(g))),
            ),
        )

    def _input(self, number: int, chunk: Chunk, together: bool) -> None:
        """Put a chunk's entries into bins by input pixel, and let each input pixel sum its own."""
        call, plan = self.call, self.call.plan
        assert self.sort is not None
        assert self.pixels is not None
        bins = self.sort.bins(number, chunk)
        call.launch_entries(chunk, bins, None)
        if together:
            self._places(bins)
        else:
            call.launch_entries(chunk, bins, bins.entries)
        blocks, of_image, block_of_keys = plan.key_blocks
        images = slice(chunk.first_image, chunk.first_image + chunk.images)
        call.kernels.launch(
            "depthwise_gather",
            (chunk.images * blocks,),
            block_of_keys,
            (
                *(self.grads[chunk.start :], self.filters, bins.entries, bins.begin, self.pixels[images]),
                *(plan.chunk_sizes, of_image, np.int32(multiplier(call.geometry))),
            ),
        )


def _taps_first(weight: Tensor) -> Tensor:
    """The weight as (taps, F)."""
    return weight.reshape(weight.shape[0], weight.shape[2] * weight.shape[3]).t().contiguous()


def _aligned(tensor: Tensor) -> Tensor:
    """Contiguous, at an address that may be read 16 bytes at a time."""
    tensor = tensor.contiguous()
    return tensor if tensor.data_ptr() % 16 == 0 else tensor.clone()


def _packs(call: Call) -> int:
    """Loads that the filters of an offset group take."""
    return call.geometry.out_channels // call.geometry.offset_groups // int(call.plan.prelude["VEC"])


def _block(packs: int) -> tuple[int, int]:
    """Threads over so many loads, a power of two, and over pixels."""
    lanes = min(32, 1 << (packs - 1).bit_length())
    return lanes, THREADS // lanes
