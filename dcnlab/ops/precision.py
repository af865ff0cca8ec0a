"""Precision of the operators' matrix products, which is torch's setting for convolutions.

A deformable convolution is a convolution, though its products are matrix products. So torch's switch for convolutions
says whether float32 may be multiplied with fewer bits: `torch.backends.cudnn.conv.fp32_precision` (or the older
`torch.backends.cudnn.allow_tf32`) on CUDA, `torch.backends.mkldnn.conv.fp32_precision` on a CPU. And products of half
precision are summed in float32 throughout, as convolutions are, whatever cuBLAS may do in matrix products.

torch takes no precision with a call of a matrix product, but for half precision with float32 results (`out_dtype`);
its C++ guard for a thread, NoTF32Guard, has no Python name. So the switches are the process's, and are set only where
they differ. The older switch for float32 products is set along with the newer one: where both disagree, torch's older
getters raise, and TunableOp, torch.compile and other threads read these.
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
_OLDER = {"tf32": "high", "bf16": "medium"}
"""The older name of a precision of float32 products; it holds for CUDA and the CPU at once."""


_MATMUL: dict[str, Any] = {"cuda": torch.backends.cuda.matmul, "cpu": torch.backends.mkldnn.matmul}  # type: ignore[attr-defined]
_CONV: dict[str, Any] = {"cuda": torch.backends.cudnn.conv, "cpu": torch.backends.mkldnn.conv}  # type: ignore[attr-defined]


@dataclass
class _Held:
    """State of one of torch's process-wide switches while calls of several threads hold it."""

    inside: int = 0
    before: Any = None
    """The switch's value before the calls; None: unchanged."""


@dataclass(frozen=True)
class _Float32:
    """torch's switches for float32 products."""

    older: str | None
    """Of both devices; None where older and newer ones disagree already, so that it cannot be read."""
    cuda: str
    cpu: str


_lock = threading.Lock()
_held: dict[str, _Held] = {name: _Held() for name in ("float32", *_REDUCED.values())}


@contextmanager
def convolution_precision(device: str, dtype: torch.dtype) -> Iterator[None]:
    """Let matrix products in the block be as precise as convolutions are.

    The first of several calls at once sets torch's switch for matrix products, the last one puts it back. A float32
    product that another thread computes meanwhile follows the convolutions' switch too. A value that another thread
    sets meanwhile is lost if the call had changed the switch: the last call restores the value before the first.

    Args:
        device: cpu or cuda.
        dtype: of the operator's input.
    """
    if dtype == torch.float64:
        yield
        return
    name = _REDUCED.get(dtype, "float32") if device == "cuda" else "float32"
    held = _held[name]
    with _lock:
        if name == "float32":
            _set_float32(device, held)
        elif held.inside == 0:
            _set_reduction(name, held)
        held.inside += 1
    try:
        yield
    finally:
        with _lock:
            held.inside -= 1
            if held.inside == 0 and held.before is not None:
                if name == "float32":
                    _put_back_float32(held.before)
                else:
                    setattr(_MATMUL["cuda"], name, held.before)
                held.before = None


def _set_reduction(name: str, held: _Held) -> None:
    """Allow that a sum in half precision is split, but not that its parts are rounded to half precision."""
    matmul = _MATMUL["cuda"]
    if getattr(matmul, name):
        held.before = True, getattr(matmul, f"{name}_split_k")
        setattr(matmul, name, (False, held.before[1]))


def _set_float32(device: str, held: _Held) -> None:
    """Make a device's products as precise as its convolutions, and the older switch agree."""
    matmul = _MATMUL[device]
    wanted, current = _CONV[device].fp32_precision, matmul.fp32_precision
    wanted = "ieee" if wanted == "none" else wanted
    if wanted == current or (wanted, current) == ("ieee", "none"):
        return
    if held.before is None:
        held.before = _float32()
    if held.before.older is not None and device == "cuda":
        if wanted == "ieee":
            torch.set_float32_matmul_precision("highest")  # sets the CPU's too, so that both agree
        else:
            matmul.allow_tf32 = True
    elif held.before.older is not None and wanted != "ieee" and not torch.cuda.is_available():
        torch.set_float32_matmul_precision(_OLDER[wanted])
    else:  # the older switch would make a GPU's products less precise too
        matmul.fp32_precision = wanted


def _float32() -> _Float32:
    try:
        older = torch.get_float32_matmul_precision()
    except RuntimeError:
        older = None
    return _Float32(older, _MATMUL["cuda"].fp32_precision, _MATMUL["cpu"].fp32_precision)


def _put_back_float32(before: _Float32) -> None:
    """Set the switches to what they were, the older one first, which sets both newer ones."""
    if before.older is not None:
        torch.set_float32_matmul_precision(before.older)
    for device, value in (("cuda", before.cuda), ("cpu", before.cpu)):
        matmul = _MATMUL[device]
        if matmul.fp32_precision != value:
            matmul.fp32_precision = "none"  # inherits the value of a more general switch, if it had
            if matmul.fp32_precision != value:
                matmul.fp32_precision = value
