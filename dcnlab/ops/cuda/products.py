"""Matrix products on CUDA."""

from __future__ import annotations

import torch
from torch import Tensor


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
