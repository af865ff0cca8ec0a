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


def grouped_product(a: Tensor, b: Tensor, out: Tensor) -> None:
    """Compute (P, G, K) @ (G, K, F) into `out`, (P, G, F), group by group: one call, however many groups."""
    if a.shape[1] == 1:
        torch.mm(a[:, 0], b[0], out=out[:, 0])
    else:
        out.copy_(torch.bmm(a.transpose(0, 1), b).transpose(0, 1))


def grouped_sums(a: Tensor, b: Tensor) -> Tensor:
    """Compute (P, G, F)^T @ (P, G, K) -> (G, F, K), with float32 results for half-precision matrices on CUDA."""
    left, right = a.permute(1, 2, 0), b.transpose(0, 1)
    if a.is_cuda and a.dtype in (torch.float16, torch.bfloat16):
        return torch.bmm(left, right, out_dtype=torch.float32)
    return torch.bmm(left, right)
