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


def transposed_product(filters: Tensor, columns: Tensor, out: Tensor) -> None:
    """Compute (G, F, K) @ (M * P, G, K)^T into `out`, (M, G * F, P), of M images: one call, however many groups."""
    images, _, pixels = out.shape
    if filters.shape[0] > 1:
        found = torch.bmm(filters, columns.permute(1, 2, 0)).view(-1, images, pixels)
        out.copy_(found.transpose(0, 1))
    elif images == 1:
        torch.mm(filters[0], columns[:, 0].t(), out=out[0])
    else:
        by_image = columns.view(images, pixels, -1).transpose(1, 2)
        torch.bmm(filters.expand(images, -1, -1), by_image, out=out)


def grouped_sums(a: Tensor, b: Tensor) -> Tensor:
    """Compute (P, G, F)^T @ (P, G, K) -> (G, F, K), with float32 results for half-precision matrices on CUDA."""
    left, right = a.permute(1, 2, 0), b.transpose(0, 1)
    if a.is_cuda and a.dtype in (torch.float16, torch.bfloat16):
        return torch.bmm(left, right, out_dtype=torch.float32)
    return torch.bmm(left, right)
