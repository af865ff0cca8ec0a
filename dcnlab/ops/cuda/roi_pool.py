"""Both deformable RoI poolings on CUDA: kernels of `cuda_kernels/`; `PoolGeometry` says which rule applies.

Nothing here asks the GPU for a value, no size depends on one, and all scratch is torch's, so calls can be captured in a
CUDA graph. The host-run tests call the same functions on CPU tensors with kernels compiled by g++.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from dcnlab.ops.cuda.kernel_arguments import record
from dcnlab.ops.cuda.launch import KernelModule, ModuleFactory, module
from dcnlab.ops.cuda.scratch import scratch
from dcnlab.ops.cuda.source import C_TYPES, Prelude, Variant
from dcnlab.ops.layout import memory_format
from dcnlab.ops.pool_geometry import MAX_SAMPLES, PoolArguments, PoolGeometry, PoolGradients

INT_MAX = 2**31 - 1 - 1024
"""Largest tensor that kernels with 32-bit indices take."""

THREADS = 128
TILE = 4
"""Side of the square of input pixels whose gradient one block gathers."""
TILE_THREADS = 32 * TILE
HITS = 64
"""Bins that such a block adds up at a time; at least 32."""

_SOURCES = {True: "deform_ps_roi_pool.cu", False: "deform_roi_pool.cu"}
_SIZES = np.dtype(
    [
        ("rois", np.int64),
        ("scale", np.float64),
        ("gamma", np.float64),
        *(
            (name, np.int32)
            for name in (
                *("batch", "height", "width", "channels", "group", "classes"),
                *("out_height", "out_width", "part_height", "part_width", "samples"),
            )
        ),
    ],
    align=True,
)


def _prelude(position_sensitive: bool, dtype: torch.dtype, vec: int, wide: bool) -> Prelude:
    limits = {} if position_sensitive else {"MAX_SAMPLES": MAX_SAMPLES}
    return {
        "scalar_t": C_TYPES[dtype],
        "real": "double" if dtype == torch.float64 else "float",
        "index_t": "long long" if wide else "int",
        "VEC": vec,
        "THREADS": THREADS,
        "TILE": TILE,
        "TILE_THREADS": TILE_THREADS,
        "HITS": HITS,
        **limits,
    }


def _builds(dtype: torch.dtype) -> list[tuple[int, bool]]:
    """Elements of one load, and whether indices are 64 bits wide: the widest load first, the general build last.

    Single loads suffice where indices are wide, and the general build for float64, which serves to check gradients.
    """
    if dtype == torch.float64:
        return [(1, True)]
    return [*((vec, False) for vec in (8, 4, 2, 1) if vec * dtype.itemsize <= 16), (1, True)]


def variants() -> list[Variant]:
    """Every text that these operators may ask for."""
    return [
        Variant(source, _prelude(position_sensitive, dtype, vec, wide), main=vec > 1)
        for position_sensitive, source in _SOURCES.items()
        for dtype in C_TYPES
        for vec, wide in _builds(dtype)
    ]


class _Call:
    """What forward and backward share: arguments as the kernels want them."""

    def __init__(self, arguments: PoolArguments, modules: ModuleFactory) -> None:
        input, boxes, offset = arguments.input, arguments.boxes, arguments.offset
        geometry = arguments.geometry
        self.dtype, self.modules, self.channels = input.dtype, modules, geometry.channels
        self.real = torch.float64 if input.dtype == torch.float64 else torch.float32
        g = self.geometry = replace(geometry, channels=_padded_channels(geometry, input.dtype))
        self.boxes = boxes.to(self.real).contiguous()
        self.pixels = self.padded(geometry.by_cells(input))
        self.offset = None if offset is None else offset.to(self.real).contiguous()
        counts = (g.batch, g.height, g.width, g.channels, g.group_size, g.classes)
        bins = (g.out_height, g.out_width, g.part_height, g.part_width, g.samples)
        self.sizes = record((g.rois, g.scale, g.gamma, *counts, *bins), _SIZES)
        self.outputs = g.rois * g.out_height * g.out_width * g.channels
        offsets = 0 if offset is None else offset.numel()
        self.words = -(-g.rois * -(-g.out_height // g.group_size) * -(-g.out_width // g.group_size) // 32)
        tiles = -(-g.height // TILE) + -(-g.width // TILE)
        self.list_words = self.words * g.group_size**2 * (g.classes * tiles + g.batch)
        self.small = max(self.pixels.numel(), self.outputs, offsets, boxes.numel(), self.list_words) <= INT_MAX

    def padded(self, rows: Tensor) -> Tensor:
        """A contiguous tensor with the kernels' channels, its last axis: those added are zero."""
        if self.geometry.channels == self.channels:
            return rows.contiguous()
        padded = self.empty(*rows.shape[:-1], self.geometry.channels, dtype=rows.dtype)
        padded[..., self.channels :].zero_()
        padded[..., : self.channels] = rows
        return padded

    def empty(self, *shape: int, dtype: torch.dtype) -> Tensor:
        return scratch(shape, dtype, self.boxes.device)

    def module(self, *maps: Tensor) -> tuple[KernelModule, int]:
        """The kernels that may read the maps, and how many loads a class's channels take."""
        rule, channels = self.geometry.position_sensitive, self.geometry.class_channels

        def fits(vec: int) -> bool:
            size = vec * self.dtype.itemsize
            return channels % vec == 0 and all(tensor.data_ptr() % size == 0 for tensor in maps)

        vec, wide = next((vec, wide) for vec, wide in _builds(self.dtype) if wide or (self.small and fits(vec)))
        return self.modules(_SOURCES[rule], _prelude(rule, self.dtype, vec, wide)), channels // vec


def _padded_channels(geometry: PoolGeometry, dtype: torch.dtype) -> int:
    """Channels of a cell in the kernels: up to a quarter more, for wider loads, where the map is copied anyway."""
    g = geometry
    if g.group_size == 1 or g.classes > 1:
        return g.channels
    for vec, _ in _builds(dtype):
        padded = -(-g.channels // vec) * vec
        if 4 * padded <= 5 * g.channels:
            return padded
    return g.channels


def _lanes(packs: int) -> int:
    """Threads of a warp over the channels of a class: a power of two."""
    return min(32, 1 << (packs - 1).bit_length())


def forward(arguments: PoolArguments, modules: ModuleFactory = module) -> Tensor:
    """Compute the output, (R, channels, out height, out width), in the input's memory format."""
    call, input = _Call(arguments, modules), arguments.input
    g = call.geometry
    output = call.empty(g.rois, g.out_height, g.out_width, g.channels, dtype=call.dtype)
    if call.pixels.numel() == 0:
        output.zero_()
    elif call.outputs:
        kernels, packs = call.module(call.pixels)
        lanes = _lanes(packs)
        warps = call.outputs // g.class_channels * -(-packs // lanes)
        kernels.launch(
            "pool",
            (-(-warps * 32 // THREADS),),
            (THREADS,),
            (call.pixels, call.boxes, call.offset, output, call.sizes, np.int32(lanes)),
        )
    return output[..., : call.channels].permute(0, 3, 1, 2).to(memory_format=memory_format(input))


def backward(
    grad: Tensor, arguments: PoolArguments, needed: PoolGradients[bool], modules: ModuleFactory = module
) -> PoolGradients[Tensor | None]:
    """Compute the gradients that are needed."""
    call, input, offset, geometry = _Call(arguments, modules), arguments.input, arguments.offset, arguments.geometry
    grads = call.padded(grad.permute(0, 2, 3, 1))
    kernels, packs = call.module(call.pixels, grads)
    grad_input = grad_offset = None
    if needed.input:
        cells = call.empty(*call.pixels.shape, dtype=call.dtype)
        if cells.numel():
            _gather(call, kernels, packs, grads, cells)
        grad_input = geometry.from_cells(cells[..., : call.channels]).to(memory_format=memory_format(input))
    if needed.offset and offset is not None and call.offset is not None:
        offset_sums = call.empty(*call.offset.shape, dtype=call.real)
        if call.pixels.numel() == 0:
            offset_sums.zero_()
        elif offset_sums.numel():
            kernels.launch(
                "offset_backward",
                (-(-offset_sums.numel() // 2 * 32 // THREADS),),
                (THREADS,),
                (grads, call.pixels, call.boxes, call.offset, offset_sums, call.sizes, np.int32(_lanes(packs))),
            )
        grad_offset = offset_sums.to(offset.dtype)
    return PoolGradients(grad_input, grad_offset)


def _gather(call: _Call, kernels: KernelModule, packs: int, grads: Tensor, cells: Tensor) -> None:
    """List which bins read each tile, and let each tile sum its own; tiles that none reads are written too."""
    g = call.geometry
    lists = call.empty(call.list_words, dtype=torch.int32)
    if call.words:
        warps = call.words * g.group_size**2 * g.classes
        kernels.launch(
            "list_bins", (-(-warps * 32 // THREADS),), (THREADS,), (call.boxes, call.offset, lists, call.sizes)
        )
    whole_warps = 32 // TILE
    lanes = min(32, -(-packs // whole_warps) * whole_warps)
    tiles = -(-g.height // TILE) * -(-g.width // TILE)
    blocks = g.batch * g.group_size**2 * tiles * g.classes * -(-packs // lanes)
    kernels.launch(
        "input_backward",
        (blocks,),
        (TILE * lanes,),
        (grads, call.boxes, call.offset, lists, cells, call.sizes, np.int32(lanes)),
    )
