"""Both deformable RoI poolings on CUDA: the kernels of `cuda_kernels/`, the rule being the geometry's.

Nothing here asks the GPU for a value, no size depends on one, and all scratch is torch's, so calls can be captured in a
CUDA graph. The host-run tests call the same functions on CPU tensors with kernels compiled by g++.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dcnlab.ops.cuda.compile import C_TYPES, Prelude, Variant
from dcnlab.ops.cuda.launch import KernelModule, ModuleFactory, module, record
from dcnlab.ops.layout import memory_format
from dcnlab.ops.pool_geometry import MAX_SAMPLES, PoolGeometry

INT_MAX = 2**31 - 1 - 1024
"""Largest tensor that kernels with 32-bit indices take."""

THREADS = 128
TILE = 8
"""Side of the square of input pixels whose gradient one block gathers."""
TILE_THREADS = 64

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
        **limits,
    }


def _builds(dtype: torch.dtype) -> list[tuple[int, bool]]:
    """Elements of one load, and whether indices are 64 bits wide: the general build last.

    Single loads suffice where indices are wide, and the general build for float64, which serves to check gradients.
    """
    return [(1, True)] if dtype == torch.float64 else [(16 // dtype.itemsize, False), (1, False), (1, True)]


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

    def __init__(
        self, input: Tensor, boxes: Tensor, offset: Tensor | None, geometry: PoolGeometry, modules: ModuleFactory
    ) -> None:
        g = self.geometry = geometry
        self.dtype, self.modules = input.dtype, modules
        self.real = torch.float64 if input.dtype == torch.float64 else torch.float32
        self.pixels = g.to_cells(input)
        self.boxes = boxes.to(self.real).contiguous()
        self.offset = None if offset is None else offset.to(self.real).contiguous()
        counts = (g.batch, g.height, g.width, g.channels, g.group_size, g.classes)
        bins = (g.out_height, g.out_width, g.part_height, g.part_width, g.samples)
        self.sizes = record((g.rois, g.scale, g.gamma, *counts, *bins), _SIZES)
        self.outputs = g.rois * g.out_height * g.out_width * g.channels
        largest = max(input.numel(), self.outputs, 0 if offset is None else offset.numel(), boxes.numel())
        self.small = largest <= INT_MAX

    def empty(self, *shape: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=self.pixels.device)

    def module(self, *maps: Tensor) -> tuple[KernelModule, int]:
        """The kernels that may read the maps, and how many loads a class's channels take."""
        rule, channels = self.geometry.position_sensitive, self.geometry.class_channels
        aligned = all(tensor.data_ptr() % 16 == 0 for tensor in maps)
        vec, wide = next(
            (vec, wide)
            for vec, wide in _builds(self.dtype)
            if wide or (self.small and (vec == 1 or (aligned and channels % vec == 0)))
        )
        return self.modules(_SOURCES[rule], _prelude(rule, self.dtype, vec, wide)), channels // vec


def _lanes(packs: int, most: int) -> int:
    """Threads over the channels of a class: a power of two."""
    return min(most, 1 << (packs - 1).bit_length())


def forward(
    input: Tensor, boxes: Tensor, offset: Tensor | None, geometry: PoolGeometry, modules: ModuleFactory = module
) -> Tensor:
    """Compute the output, (R, channels, out height, out width), in the input's memory format."""
    g, call = geometry, _Call(input, boxes, offset, geometry, modules)
    output = call.empty(g.rois, g.out_height, g.out_width, g.channels, dtype=call.dtype)
    if call.pixels.numel() == 0:
        output.zero_()
    elif call.outputs:
        kernels, packs = call.module(call.pixels)
        lanes = _lanes(packs, 32)
        warps = call.outputs // g.class_channels * -(-packs // lanes)
        kernels.launch(
            "pool",
            (-(-warps * 32 // THREADS),),
            (THREADS,),
            (call.pixels, call.boxes, call.offset, output, call.sizes, np.int32(lanes)),
        )
    return output.permute(0, 3, 1, 2).to(memory_format=memory_format(input))


def backward(
    grad: Tensor,
    input: Tensor,
    boxes: Tensor,
    offset: Tensor | None,
    geometry: PoolGeometry,
    needed: tuple[bool, bool],
    modules: ModuleFactory = module,
) -> tuple[Tensor, Tensor]:
    """Compute the gradients of input and offset; those not needed come back empty."""
    g, call = geometry, _Call(input, boxes, offset, geometry, modules)
    grads = grad.permute(0, 2, 3, 1).contiguous()
    kernels, packs = call.module(call.pixels, grads)
    grad_input = grad_offset = input.new_empty(0)
    if needed[0]:
        cells = torch.empty_like(call.pixels)
        if cells.numel():
            _gather(call, kernels, packs, grads, cells)
        grad_input = g.from_cells(cells).to(memory_format=memory_format(input))
    if needed[1] and offset is not None and call.offset is not None:
        shift = torch.empty_like(call.offset)
        if call.pixels.numel() == 0:
            shift.zero_()
        elif shift.numel():
            kernels.launch(
                "offset_backward",
                (-(-shift.numel() // 2 * 32 // THREADS),),
                (THREADS,),
                (grads, call.pixels, call.boxes, call.offset, shift, call.sizes, np.int32(_lanes(packs, 32))),
            )
        grad_offset = shift.to(offset.dtype)
    return grad_input, grad_offset


def _gather(call: _Call, kernels: KernelModule, packs: int, grads: Tensor, cells: Tensor) -> None:
    """Let each tile of the map sum the bins that read it; tiles that none reads are written too."""
    g, lanes = call.geometry, _lanes(packs, TILE_THREADS // TILE)
    tiles = -(-g.height // TILE) * -(-g.width // TILE)
    blocks = g.batch * g.group_size**2 * tiles * g.classes * -(-packs // lanes)
    kernels.launch(
        "input_backward",
        (blocks,),
        (max(32, TILE * lanes),),
        (grads, call.boxes, call.offset, cells, call.sizes, np.int32(lanes)),
    )
