"""Matrix products on CUDA: one call each, however many images and groups, written where the result belongs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def rows_by_filters(columns: Tensor, filters: Tensor, bias: Tensor | None, out: Tensor, groups: int) -> None:
    """Compute columns @ filters^T + bias, group by group.

    Args:
        columns: (P, G * K).
        filters: (G * F, K).
        bias: (G * F,).
        out: (P, G * F).
        groups: G.
    """
    if groups == 1:
        if bias is None:
            torch.mm(columns, filters.t(), out=out)
        else:
            torch.addmm(bias, columns, filters.t(), out=out)
        return
    a, b = _by_group(columns, groups), filters.view(groups, -1, filters.shape[1]).transpose(1, 2)
    if bias is None:
        torch.bmm(a, b, out=_by_group(out, groups))
    else:
        torch.baddbmm(bias.view(groups, 1, -1), a, b, out=_by_group(out, groups))


def filters_by_rows(filters: Tensor, columns: Tensor, bias: Tensor | None, out: Tensor, groups: int) -> None:
    """Compute filters @ columns^T + bias for each of M images: the transposed product, for contiguous outputs.

    Args:
        filters: (G * F, K).
        columns: (M * P, G * K).
        bias: (G * F,).
        out: (M, G * F, P), each pixel next to the one before.
        groups: G.
    """
    images, count, pixels = out.shape
    if groups > 1:
        a = filters.view(groups, -1, filters.shape[1])
        b = _by_group(columns, groups).transpose(1, 2)
        if images == 1:
            _batched(bias if bias is None else bias.view(groups, -1, 1), a, b, out[0].view(groups, -1, pixels))
            return
        product = torch.bmm(a, b).view(count, images, pixels).transpose(0, 1)
        if bias is None:
            out.copy_(product)
        else:
            torch.add(product, bias[:, None], out=out)
    elif images > 1:
        b = columns.view(images, pixels, -1).transpose(1, 2)
        _batched(bias if bias is None else bias[:, None], filters.expand(images, -1, -1), b, out)
    elif bias is None:
        torch.mm(filters, columns.t(), out=out[0])
    else:
        torch.addmm(bias[:, None], filters, columns.t(), out=out[0])


def rows_by_depth(grads: Tensor, filters: Tensor, out: Tensor, groups: int) -> None:
    """Compute grads @ filters, group by group.

    Args:
        grads: (P, G * F).
        filters: (G * F, K).
        out: (P, G * K).
        groups: G.
    """
    if groups == 1:
        torch.mm(grads, filters, out=out)
    else:
        b = filters.view(groups, -1, filters.shape[1])
        torch.bmm(_by_group(grads, groups), b, out=_by_group(out, groups))


def sums(grads: Tensor, columns: Tensor, out: Tensor, groups: int) -> None:
    """Compute grads^T @ columns, group by group, of all rows at once.

    Args:
        grads: (P, G * F).
        columns: (P, G * K).
        out: (G * F, K).
        groups: G.
    """
    if groups == 1:
        torch.mm(grads.t(), columns, out=out)
    else:
        b = _by_group(columns, groups)
        torch.bmm(_by_group(grads, groups).transpose(1, 2), b, out=out.view(groups, -1, out.shape[1]))


def add_sums(grads: Tensor, columns: Tensor, total: Tensor | None, dtype: torch.dtype, groups: int) -> Tensor:
    """Add grads^T @ columns, group by group, to a total, in place; without a total, return a new one.

    Args:
        grads: (P, G * F).
        columns: (P, G * K).
        total: (G * F, K), or None at first.
        dtype: of the total: float32 for half precision.
        groups: G.
    """
    if groups == 1:
        left, right = grads.t(), columns
        if total is not None and grads.dtype == dtype:
            return torch.addmm(total, left, right, out=total)
        product = _unrounded(torch.mm, left, right, dtype)
        return product if total is None else total.add_(product)
    left, right = _by_group(grads, groups).transpose(1, 2), _by_group(columns, groups)
    product = _unrounded(torch.bmm, left, right, dtype).view(-1, right.shape[2])
    return product if total is None else total.add_(product)


def _unrounded(product: Callable[..., Tensor], left: Tensor, right: Tensor, dtype: torch.dtype) -> Tensor:
    """A product that is not rounded to half precision, where torch has it: on CUDA."""
    if left.dtype == dtype or not left.is_cuda:
        return product(left, right).to(dtype)
    return product(left, right, out_dtype=dtype)


def _by_group(rows: Tensor, groups: int) -> Tensor:
    """(P, G * K) as (G, P, K), without a copy."""
    return rows.view(rows.shape[0], groups, -1).transpose(0, 1)


def _batched(bias: Tensor | None, a: Tensor, b: Tensor, out: Tensor) -> None:
    if bias is None:
        torch.bmm(a, b, out=out)
    else:
        torch.baddbmm(bias, a, b, out=out)
