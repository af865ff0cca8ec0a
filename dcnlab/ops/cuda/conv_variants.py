"""The variants of the kernels of deformable convolution: `deform_conv2d.cu` and `deform_conv2d_depthwise.cu`."""

from __future__ import annotations

import torch

from dcnlab.ops.cuda import depthwise_sizes
from dcnlab.ops.cuda.source import C_TYPES, Prelude, Variant

THREADS = 128
ROWS = 32
LONG = 256
"""Entries of a key up to which a warp alone puts them in order and adds them up; beyond, a block does."""
SOURCE = "deform_conv2d.cu"


def prelude(dtype: torch.dtype, vec: int, wide: bool, total: torch.dtype) -> Prelude:
    """The types and constants of a variant; `total` is the type of sums of the input's gradient."""
    return {
        "scalar_t": C_TYPES[dtype],
        "real": "double" if dtype == torch.float64 else "float",
        "total_t": C_TYPES[total],
        "index_t": "long long" if wide else "int",
        "VEC": vec,
        "THREADS": THREADS,
        "ROWS": ROWS,
        "LONG": LONG,
    }


def builds(dtype: torch.dtype) -> list[tuple[int, bool]]:
    """Elements of one load, and whether indices are 64 bits wide; those only with the widest and with single loads."""
    whole = 16 // dtype.itemsize
    return [*((vec, False) for vec in (8, 4, 2, 1) if vec <= whole), (whole, True), (1, True)]


def widest(dtype: torch.dtype, alignment: int, wide: bool, runs: tuple[int, ...]) -> tuple[int, bool]:
    """The build with the widest loads that divide each run of channels, at addresses of an alignment in bytes."""
    return next(
        build
        for build in sorted(builds(dtype), reverse=True)
        if build[1] == wide
        and alignment % (build[0] * dtype.itemsize) == 0
        and all(run % build[0] == 0 for run in runs)
    )


def variants() -> list[Variant]:
    """Every text that this operator may ask for."""
    texts = []
    for dtype in C_TYPES:
        real = torch.float64 if dtype == torch.float64 else torch.float32
        for vec, wide in builds(dtype):
            for total in dict.fromkeys((dtype, real)):
                main = vec > 1 and not wide  # both totals: an image may be cut into chunks
                texts.append(Variant(SOURCE, prelude(dtype, vec, wide, total), main))
            texts.append(
                Variant(depthwise_sizes.SOURCE, depthwise_sizes.prelude(prelude(dtype, vec, wide, dtype)), main)
            )
    return texts
