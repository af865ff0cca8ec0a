"""Deformable convolution of a group a channel on CUDA: `cuda_kernels/deform_conv2d_depthwise.cu`, without columns.

Matrix products of one channel a group would be as many as there are channels, each of a vector. Here a thread takes the
channels of a 16-byte load, and a sampling location serves all channels of its offset group.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dcnlab.ops.cuda.compile import C_TYPES, Prelude, Variant
from dcnlab.ops.cuda.launch import KernelModule, ModuleFactory, divisor
from dcnlab.ops.geometry import ConvGeometry

SORT_BYTES = 128 << 20
"""Entries of the sampling matrix held at a time, for as many whole images as fit, and for one at least."""

INT_MAX = 2**31 - 1 - 1024
"""Largest tensor that kernels with 32-bit indices take."""

THREADS = 128
ROWS = 32
RUN = 64
"""Output pixels of which a block sums the weight's gradient."""

_SOURCE = "deform_conv2d_depthwise.cu"


def _prelude(dtype: torch.dtype, vec: int, wide: bool) -> Prelude:
    return {
        "scalar_t": C_TYPES[dtype],
        "real": "double" if dtype == torch.float64 else "float",
        "total_t": C_TYPES[dtype],
        "index_t": "long long" if wide else "int",
        "VEC": vec,
        "THREADS": THREADS,
        "ROWS": ROWS,
        "RUN": RUN,
    }


def _builds(dtype: torch.dtype) -> list[tuple[int, bool]]:
    """Elements of one load, and whether indices are 64 bits wide: the widest load first, the general build last."""
    narrow = [(vec, False) for vec in (8, 4, 2, 1) if vec * dtype.itemsize <= 16]
    return [*narrow, (1, True)]


def variants() -> list[Variant]:
    """Every text that these kernels may be asked for."""
    return [
        Variant(_SOURCE, _prelude(dtype, vec, wide), main=vec * dtype.itemsize == 16)
        for dtype in C_TYPES
        for vec, wide in _builds(dtype)
    ]


def serves(geometry: ConvGeometry) -> bool:
    """Whether each channel is a group: then these kernels compute the call."""
    return geometry.groups == geometry.channels > 1 and geometry.out_channels > 0


class Call:
    """Arguments as the kernels want them.

    Args:
        pixels: (N, H, W, C), contiguous.
        shift: (N, 2 * offset_groups * taps, Ho, Wo), in the coordinates' dtype, contiguous.
        mask: (N, offset_groups * taps, Ho, Wo), likewise.
        weight: (F, 1, kh, kw).
        sizes: `ChunkSizes` of the call.
        geometry: of the call; `serves` must have said yes.
        modules: where kernels come from.
    """

    def __init__(
        self,
        pixels: Tensor,
        shift: Tensor,
        mask: Tensor | None,
        weight: Tensor,
        sizes: np.ndarray,
        geometry: ConvGeometry,
        modules: ModuleFactory,
    ) -> None:
        g = self.geometry = geometry
        self.pixels, self.shift, self.mask, self.weight, self.modules = pixels, shift, mask, weight, modules
        self.multiplier = g.out_channels // g.channels
        self.filters = weight.reshape(g.out_channels, g.taps).t().contiguous()
        # A single group of a single channel: then a row's columns are its output pixel and tap.
        own = np.array(sizes)
        own["sizes"]["groups"], own["group_channels"], own["by_group_channels"] = 1, 1, divisor(1)
        self.sizes = own[()]
        self.runs = -(-g.pixels // RUN)
        rows = g.pixels * g.taps * g.offset_groups
        largest = max(pixels.numel(), 4 * rows, g.pixels * g.out_channels, self.runs * self.filters.numel())
        self.wide = largest > INT_MAX

    def forward(self, bias: Tensor | None) -> Tensor:
        """Compute the output's pixels, (N * Ho * Wo, F)."""
        g = self.geometry
        output = self.pixels.new_empty(g.pixels, g.out_channels)
        bias = None if bias is None else bias.contiguous()
        if g.pixels:
            kernels, vec = self._module(*(() if bias is None else (bias,)))
            lanes, packs = self._lanes(vec, self.multiplier)
            rows = THREADS // lanes
            kernels.launch(
                "depthwise",
                (-(-g.pixels // rows) * g.offset_groups * -(-packs // lanes),),
                (lanes, rows),
                (self.pixels, self.shift, self.mask, self.filters, bias, output, *self._last(g.pixels)),
            )
        return output

    def backward(self, grads: Tensor, needed: tuple[bool, bool, bool, bool]) -> tuple[Tensor | None, ...]:
        """Compute the gradients of pixels, shift, mask and weight, each in the form of the call's; None if not needed.

        Args:
            grads: (N * Ho * Wo, F), contiguous.
            needed: which.
        """
        grad_pixels = torch.empty_like(self.pixels) if needed[0] else None
        if grad_pixels is not None and grad_pixels.numel():
            self._gather(grads, grad_pixels)
        return grad_pixels, *self._places(grads, needed)

    def _places(
        self, grads: Tensor, needed: tuple[bool, bool, bool, bool]
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        g = self.geometry
        if not any(needed[1:]):
            return None, None, None
        grad_shift = torch.empty_like(self.shift) if needed[1] else None
        grad_mask = torch.empty_like(self.mask) if needed[2] and self.mask is not None else None
        partial = self.shift.new_empty(self.runs, g.taps, g.out_channels) if needed[3] else None
        if self.runs:
            kernels, vec = self._module(grads)
            lanes, _ = self._lanes(vec, self.multiplier)
            kernels.launch(
                "depthwise_places_backward",
                (self.runs * g.taps * g.offset_groups,),
                (lanes, THREADS // lanes),
                (
                    *(grads, self.pixels, self.shift, self.mask, self.filters, grad_shift, grad_mask, partial),
                    *self._last(g.pixels),
                ),
            )
        grad_weight = None
        if partial is not None:
            grad_weight = partial.sum(0).to(self.weight.dtype).t().contiguous().view(self.weight.shape)
        return grad_shift, grad_mask, grad_weight

    def _gather(self, grads: Tensor, grad_pixels: Tensor) -> None:
        """Put the entries into bins by input pixel, a counting sort, and let each input pixel sum its own."""
        g = self.geometry
        kernels, vec = self._module(grads)
        lanes, _ = self._lanes(vec, 1)
        area, keys_of_image = g.out_height * g.out_width, g.height * g.width * g.offset_groups
        rows_of_image = area * g.taps * g.offset_groups
        entry_bytes = 8 if self.shift.dtype == torch.float32 and not self.wide else 16
        images = max(1, SORT_BYTES // max(1, 8 * rows_of_image * entry_bytes))
        for first in range(0, g.batch, images):
            count = min(images, g.batch - first)
            rows, keys = count * rows_of_image, count * keys_of_image
            ends = torch.zeros(keys + 1, dtype=torch.int32, device=self.pixels.device)
            bins, ordered = self.pixels.new_empty(2, 4 * rows * entry_bytes, dtype=torch.uint8)
            places = (self.sizes, np.int64(first * area), np.int64(rows), np.int64(first))
            if rows:
                grid, block = (-(-rows // THREADS),), (THREADS,)
                kernels.launch("entries", grid, block, (self.shift, self.mask, ends, None, *places))
                ends = torch.cumsum(ends, 0, dtype=torch.int32)
                kernels.launch("entries", grid, block, (self.shift, self.mask, ends, bins, *places))
            threads_y = THREADS // lanes
            kernels.launch(
                "depthwise_gather",
                (-(-keys // threads_y),),
                (lanes, threads_y),
                (
                    *(grads[first * area :], self.filters, bins, ordered, ends, grad_pixels[first : first + count]),
                    *self._last(keys),
                ),
            )

    def _last(self, count: int) -> tuple[np.generic, np.generic, np.generic]:
        """The arguments that end each kernel's list."""
        return self.sizes, np.int64(count), np.int32(self.multiplier)

    def _module(self, *others: Tensor) -> tuple[KernelModule, int]:
        """The kernels with the widest loads that an offset group's channels and the tensors' addresses allow."""
        g, dtype = self.geometry, self.pixels.dtype
        run = 1 if self.multiplier > 1 else g.channels // g.offset_groups
        tensors = (self.pixels, *others)

        def fits(vec: int) -> bool:
            return run % vec == 0 and all(t.data_ptr() % (vec * dtype.itemsize) == 0 for t in tensors)

        vec, wide = next((vec, wide) for vec, wide in _builds(dtype) if wide or (not self.wide and fits(vec)))
        return self.modules(_SOURCE, _prelude(dtype, vec, wide)), vec

    def _lanes(self, vec: int, multiplier: int) -> tuple[int, int]:
        """Threads in x, a power of two, and loads of an offset group's filters."""
        packs = self.geometry.channels // self.geometry.offset_groups * multiplier // vec
        return min(32, 1 << (packs - 1).bit_length()), packs
