"""Matrix products on CUDA."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def convolution_precision() -> Iterator[None]:
    """Let float32 products in the block follow torch's switch for convolutions, not the one for matrix products.

    A deformable convolution is a convolution: `torch.backends.cudnn.conv.fp32_precision` (or the older
    `torch.backends.cudnn.allow_tf32`) says whether it may use TF32, as it does for `torch.nn.Conv2d`.
    """
    matmul = torch.backends.cuda.matmul
    wanted = "tf32" if torch.backends.cudnn.conv.fp32_precision == "tf32" else "ieee"  # type: ignore[attr-defined]
    found = matmul.fp32_precision
    if found == wanted:
        yield
        return
    matmul.fp32_precision = wanted
    try:
        yield
    finally:
        matmul.fp32_precision = found


def product(a: Tensor, b: Tensor, out: Tensor, bias: Tensor | None = None) -> None:
    """Compute a @ b + bias into `out`, for (P, K), (K, F) and (F,) of one dtype; rows of `out` may be strided."""
    if bias is None:
        torch.mm(a, b, out=out)
    else:
        torch.addmm(bias, a, b, out=out)
