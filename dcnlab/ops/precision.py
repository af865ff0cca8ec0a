"""The precision of the operators' matrix products: a convolution's.

A deformable convolution is a convolution, though its products are matrix products. So torch's switch for convolutions
says whether float32 may be multiplied with fewer bits: `torch.backends.cudnn.conv.fp32_precision` (or the older
`torch.backends.cudnn.allow_tf32`) on CUDA, `torch.backends.mkldnn.conv.fp32_precision` on a CPU. And products of half
precision are summed in float32 throughout, as convolutions are, whatever cuBLAS may do in matrix products.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

_REDUCED = {
    torch.float16: "allow_fp16_reduced_precision_reduction",
    torch.bfloat16: "allow_bf16_reduced_precision_reduction",
}


@dataclass
class _Held:
    """One of torch's switches while calls are inside: they are the process's, and threads may call at once."""

    inside: int
    before: Any


_lock = threading.Lock()
_held: dict[tuple[str, str], _Held] = {}


@contextmanager
def convolution_precision(device: str, dtype: torch.dtype) -> Iterator[None]:
    """Let matrix products in the block be as precise as convolutions are.

    The first of several calls at once sets torch's switch for matrix products, the last one puts it back. A float32
    product that another thread computes meanwhile follows the convolutions' switch too.

    Args:
        device: cpu or cuda.
        dtype: of the operator's input.
    """
    if dtype == torch.float64:
        yield
        return
    backend: Any = torch.backends.cuda if device == "cuda" else torch.backends.mkldnn
    name = _REDUCED.get(dtype, "fp32_precision") if device == "cuda" else "fp32_precision"
    key = device, name
    with _lock:
        held = _held.setdefault(key, _Held(0, None))
        if held.inside == 0:
            held.before = _read(backend.matmul, name)
            wanted = _convolutions(device, name, held.before)
            if not _same(wanted, held.before):
                setattr(backend.matmul, name, wanted)
        held.inside += 1
    try:
        yield
    finally:
        with _lock:
            held.inside -= 1
            if held.inside == 0 and _read(backend.matmul, name) != held.before:
                _put_back(backend.matmul, name, held.before)


def _read(matmul: Any, name: str) -> Any:
    value = getattr(matmul, name)
    return value if name == "fp32_precision" else (value, getattr(matmul, f"{name}_split_k"))


def _convolutions(device: str, name: str, found: Any) -> Any:
    """The value at which matrix products are as convolutions."""
    if name != "fp32_precision":
        return False, found[1]  # splitting a sum is allowed, rounding its parts is not
    backend: Any = torch.backends.cudnn if device == "cuda" else torch.backends.mkldnn
    precision = backend.conv.fp32_precision
    return "ieee" if precision == "none" else precision


def _same(wanted: Any, found: Any) -> bool:
    return wanted == found or (wanted, found) == ("ieee", "none")


def _put_back(matmul: Any, name: str, value: Any) -> None:
    """Set a switch to what it was; where that came from a more general one, let it come from there again."""
    if name == "fp32_precision":
        setattr(matmul, name, "none")
        if getattr(matmul, name) == value:
            return
    setattr(matmul, name, value)
