"""Deformable convolution's output by one kernel, `cuda_kernels/deform_conv2d_fused.cu`, without columns in memory.

The alternative to the chunks of `conv_columns.py`, for half precision and for float32 in TF32;
`fused_dispatch.py` says when it serves.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dcnlab.ops.cuda.conv_call import Call
from dcnlab.ops.cuda.source import C_TYPES, Prelude, Variant
from dcnlab.ops.geometry import ConvGeometry

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
"""What tensor cores multiply; float32 in TF32."""

LEAST_ARCHITECTURE = 80
"""`mma` of these types, and asynchronous copies."""

FULL_GRID = 128
"""With at least so many blocks of the larger tile it is taken: about one a multiprocessor of an A100 or an H100."""

INT_MAX = 2**31 - 1 - 1024
"""Largest tensor that the kernel takes with 32-bit indices."""

_SOURCE = "deform_conv2d_fused.cu"
_SLICE_BYTES = 128


def _prelude(dtype: torch.dtype, tile: int, wide: bool) -> Prelude:
    place_bytes = 4 * ((8 if wide else 4) + 4 + 1)
    return {
        "scalar_t": C_TYPES[dtype],
        "real": "float",
        "index_t": "long long" if wide else "int",
        "VEC": 16 // dtype.itemsize,
        "TILE": tile,
        "THREADS": 2 * tile,
        "SHARED_BYTES": 2 * tile * (2 * _SLICE_BYTES + place_bytes),
    }


def variants() -> list[Variant]:
    """Every text that this kernel may be asked for; 64-bit indices leave registers for the smaller tile only."""
    return [
        Variant(_SOURCE, _prelude(dtype, tile, wide), main=True, least_architecture=LEAST_ARCHITECTURE)
        for dtype in DTYPES
        for tile, wide in ((64, False), (128, False), (64, True))
    ]


def takes(pixels: Tensor, filters: Tensor, geometry: ConvGeometry) -> bool:
    """Whether the kernel can compute this call: dtype and sizes, whatever the device.

    Args:
        pixels: (N, H, W, C), contiguous.
        filters: (F, taps * C), the weight.
        geometry: of the call.
    """
    g, vec = geometry, 16 // pixels.dtype.itemsize
    if pixels.dtype not in DTYPES or g.groups != 1 or min(g.pixels, g.channels, g.out_channels) == 0:
        return False
    if pixels.dtype == torch.float32 and torch.backends.cudnn.conv.fp32_precision != "tf32":  # type: ignore[attr-defined]
        return False
    whole = g.channels % (g.offset_groups * vec) == 0 and g.out_channels % vec == 0
    return whole and pixels.data_ptr() % 16 == 0 and filters.data_ptr() % 16 == 0


def tile_of(geometry: ConvGeometry, wide: bool) -> int:
    """Output pixels, and filters, of a block: the larger tile where it fills a GPU and its filters are used."""
    tiles = -(-geometry.pixels // 128) * -(-geometry.out_channels // 128)
    return 128 if not wide and geometry.out_channels > 64 and tiles >= FULL_GRID else 64


def forward(call: Call) -> Tensor:
    """Compute the output's pixels, (N * Ho * Wo, F), of a call that `takes` lets pass."""
    g, pixels, filters, bias = call.geometry, call.pixels, call.filters, call.bias
    output = torch.empty(g.pixels, g.out_channels, dtype=pixels.dtype, device=pixels.device)
    # The last tile counts beyond the last filter.
    wide = max(pixels.numel(), call.offset.numel(), (g.out_channels + 128) * filters.shape[1], output.numel()) > INT_MAX
    tile = tile_of(g, wide)
    prelude = _prelude(pixels.dtype, tile, wide)
    call.modules(_SOURCE, prelude).launch(
        "fused",
        (-(-g.pixels // tile) * -(-g.out_channels // tile),),
        (2 * tile,),
        (
            *(pixels, call.offset, call.mask, filters, None if bias is None else bias.contiguous(), output),
            *(call.plan.sizes, np.int64(g.pixels), np.int32(g.out_channels)),
        ),
        shared_bytes=int(prelude["SHARED_BYTES"]),
    )
    return output
