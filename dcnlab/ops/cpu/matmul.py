"""Matrix products on a CPU.

In float32 oneDNN's linear serves where torch has it: it uses AVX-512 on every make of CPU, where MKL reaches half its
speed on some (measured 390 against 185 GFLOP/s on two cores of an AMD EPYC). The operators are those that torch's own
compiler emits; they multiply by the second argument transposed.
"""

from __future__ import annotations

import torch
from torch import Tensor


def _onednn(dtype: torch.dtype) -> bool:
    return dtype == torch.float32 and torch.backends.mkldnn.is_available() and bool(torch.backends.mkldnn.enabled)


def grouped_product(a: Tensor, b: Tensor) -> Tensor:
    """Compute (P, G, K) @ (G, K, F) -> (P, G, F), group by group: one call, however many groups."""
    if a.shape[1] > 1:
        return torch.bmm(a.transpose(0, 1), b).transpose(0, 1)
    if _onednn(a.dtype):
        return torch.ops.mkldnn._linear_pointwise(a[:, 0], b[0].t(), None, "none", [], "").unsqueeze(1)
    return torch.mm(a[:, 0], b[0]).unsqueeze(1)


_FEW = 7
"""So few products bring their right-hand side into oneDNN's layout faster each for itself, in memory at hand."""


class Factor:
    """The right-hand side of several products, brought into the product's own layout once.

    Args:
        b: (G, K, F), of one dtype with the left-hand sides; any strides.
        rows: P of most products.
        products: how many there will be.
    """

    def __init__(self, b: Tensor, rows: int, products: int) -> None:
        self._packed = products > _FEW and len(b) == 1 and _onednn(b.dtype) and b.numel() > 0
        self._b = torch.ops.mkldnn._reorder_linear_weight(b[0].t(), rows) if self._packed else b

    def product(self, a: Tensor, bias: Tensor | None = None) -> Tensor:
        """Compute (P, G, K) @ b -> (P, G, F), plus a bias of G * F elements."""
        if self._packed:
            bias = (
                None if bias is None else bias.contiguous()
            )  # oneDNN reads on from its first element, whatever its stride
            return torch.ops.mkldnn._linear_pointwise(a[:, 0], self._b, bias, "none", [], "").unsqueeze(1)
        product = grouped_product(a, self._b)
        return product if bias is None else product + bias.view(product.shape[1:])
