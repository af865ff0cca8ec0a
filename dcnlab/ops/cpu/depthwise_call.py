"""A call of deformable convolution with few channels a group on a CPU: which calls, its arguments, and the loops."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from dcnlab.ops.chunk_sizes import CpuChunks
from dcnlab.ops.cpu import depthwise_callbacks as loops
from dcnlab.ops.cpu.base_call import MIN_PIXELS, BaseCall, dtype_of
from dcnlab.ops.cpu.openmp import parts_of, run
from dcnlab.ops.geometry import ConvArguments, ConvGeometry

MOST = 8
"""Most channels, and filters, of a group; at 16 the columns' products are quicker (256 channels, 14x14)."""
RUN, RUN_MULTIPLE = 384, 16
"""Most groups whose gradients are computed together, and what their number is a multiple of, but for the last run.

Longer runs are quicker on one thread: with 256 a backward pass takes a quarter more than with 1152, with 64 twice as
long.
"""
BANDS = 8
"""Most bands of images whose gradients are computed at once, each with a gradient of the weight."""


def serves(geometry: ConvGeometry) -> bool:
    """Whether these loops compute a call: many small groups, each within one offset group."""
    g = geometry
    largest = max(g.channels // g.groups, g.group_filters)
    together = g.groups // g.offset_groups
    whole = g.groups % g.offset_groups == 0 and g.out_channels > 0
    # Short runs of groups leave vectors empty: 16 channels in four groups are quicker by columns, in eight without.
    return g.groups > 1 and whole and largest <= MOST and together > 2 * (largest - 1)


def runs(geometry: ConvGeometry) -> list[tuple[int, int]]:
    """Runs of groups within one offset group, first group and length: a power of two in each offset group.

    They depend on nothing but the sizes, so that the sums do not depend on the number of threads.
    """
    groups = geometry.groups // geometry.offset_groups
    count = 1 << (-(-groups // RUN) - 1).bit_length()
    length = -(-groups // (count * RUN_MULTIPLE)) * RUN_MULTIPLE
    firsts = [
        (start, start + first) for start in range(0, geometry.groups, groups) for first in range(0, groups, length)
    ]
    return [(first, min(length, start + groups - first)) for start, first in firsts]


class Call(BaseCall):
    """Arguments of forward and backward in the form that the loops take."""

    def __init__(self, arguments: ConvArguments, chunks: CpuChunks | None) -> None:
        g = arguments.geometry
        self.channels = g.channels // g.groups
        groups = g.groups // g.offset_groups
        segments = [(number * groups, groups, number) for number in range(g.offset_groups)]
        self.runs = runs(g)
        row_bytes = max(g.out_channels, 3 * g.taps * len(self.runs)) * dtype_of(arguments.input).itemsize
        by_place = arguments.input.unflatten(1, (g.groups, self.channels)).permute(0, 3, 4, 2, 1)
        super().__init__(arguments, chunks, by_place, segments, row_bytes)
        weight = self.weight.to(self.dtype).reshape(g.groups, g.group_filters, self.channels, g.taps)
        self.filters = weight.permute(1, 2, 3, 0).contiguous().view(-1)

    def by_filter(self, maps: Tensor) -> Tensor:
        """Maps (N, F, Ho, Wo) as the loops' rows, (N * Ho * Wo * F): first filter of all groups, then the second."""
        g = self.geometry
        maps = maps.to(self.dtype).unflatten(1, (g.groups, g.group_filters))
        return maps.permute(0, 3, 4, 2, 1).contiguous().view(-1)

    def forward(self, start: int, stop: int, bias: Tensor, rows: Tensor) -> None:
        """Write the outputs of output pixels `start` to `stop`."""
        count, g = stop - start, self.geometry
        parts = parts_of(count, MIN_PIXELS)
        scratch = self.empty(parts * g.groups // g.offset_groups)
        numbers = loops.FORWARD.numbers(
            count=count,
            start=start,
            shared=self.shared,
            weight=self.filters,
            depth=self.channels,
            multiplier=g.group_filters,
            bias=bias,
            scratch=scratch,
            rows=rows.view(-1),
        )
        run(loops.computing(self.real), numbers, parts)

    def bands(self, start: int, stop: int) -> list[tuple[int, int]]:
        """First and last output pixel of bands of a chunk's images."""
        images = list(self.images(start, stop))
        count = min(BANDS, len(images))
        ends = [images[len(images) * band // count][1] for band in range(count)]
        return list(pairwise([*ends, stop]))

    def backward(
        self, start: int, stop: int, grads: Tensor, grad_pixels: Tensor, grad_filters: Tensor, grad_places: Tensor
    ) -> None:
        """Backpropagate the gradient of output pixels `start` to `stop`; arrays of size 0 are skipped."""
        bands = enumerate(self.bands(start, stop))
        pieces = torch.tensor(
            [(*band, *groups, number, slot) for slot, band in bands for number, groups in enumerate(self.runs)]
        )
        grad_columns, columns = self.empty(2, len(pieces) * max(length for _, length in self.runs))
        numbers = loops.BACKWARD.numbers(
            start=start,
            shared=self.shared,
            pieces=pieces,
            weight=self.filters,
            depth=self.channels,
            multiplier=self.geometry.group_filters,
            grads=grads,
            grad_columns=grad_columns,
            columns=columns,
            grad_pixels=grad_pixels,
            grad_weight=grad_filters.view(-1),
            grad_places=grad_places,
        )
        run(loops.returning(self.real), numbers, len(pieces))
