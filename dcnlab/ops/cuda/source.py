"""The kernels' source texts, and their variants.

A module is one text: a generated prelude (types and constants of the variant), `common.cuh`, and one `.cu` file, with
what it shares with others before and after it. It includes no file of the project: the cache on disk is keyed by the
text, and would not see an included file change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
"""Compute capabilities the kernels are proven to compile for: Turing to Blackwell."""

C_TYPES: Mapping[torch.dtype, str] = {
    torch.float64: "double",
    torch.float32: "float",
    torch.float16: "__half",
    torch.bfloat16: "__nv_bfloat16",
}
"""The C++ type of a tensor's elements, as a prelude names it."""

Prelude = Mapping[str, str | int]
"""A variant's definitions before the source: a string becomes a type alias, an int a constant."""

_SHARED: Mapping[str, tuple[str, ...]] = {
    "deform_conv2d.cu": ("conv_rows.cuh", "entries.cuh", "conv_sort.cuh"),
    "deform_conv2d_depthwise.cu": ("conv_rows.cuh", "entries.cuh", "conv_sort.cuh"),
    "deform_conv2d_fused.cu": ("conv_rows.cuh", "mma.cuh"),
    "deform_ps_roi_pool.cu": ("roi_bins.cuh",),
    "deform_roi_pool.cu": ("roi_bins.cuh",),
    "ms_deform_attn.cu": ("entries.cuh",),
}
"""What is put before a kernel file, after `common.cuh`."""

_KERNELS: Mapping[str, str] = {name: "roi_kernels.cuh" for name in ("deform_ps_roi_pool.cu", "deform_roi_pool.cu")}
"""What is put after a kernel file: kernels that it shares with another."""

_HEADERS = "#include <cuda_fp16.h>\n#include <cuda_bf16.h>\n"
_INT_MAX = 2**31 - 1


def kernel_folder() -> Path:
    """The folder `cuda_kernels`: within the package of a wheel, next to the package in a checkout.

    Raises:
        FileNotFoundError: neither has it.
    """
    package = Path(__file__).resolve().parents[2]
    for parent in (package / "_files", package.parent):
        if (parent / "cuda_kernels").is_dir():
            return parent / "cuda_kernels"
    raise FileNotFoundError(f"no folder cuda_kernels in {package / '_files'} or {package.parent}: install dcnlab again")


@dataclass(frozen=True)
class Variant:
    """One text the product may ask for.

    An orchestration module in this package lists all of them with `variants() -> list[Variant]`; the tests compile
    each for every architecture.
    """

    source_file: str
    """A file in `cuda_kernels/`."""
    prelude: Prelude
    main: bool = False
    """On the main path: the tests compile it for every architecture."""
    least_architecture: int = ARCHITECTURES[0]
    """The first one that has its instructions; it is not asked for on older ones."""

    @property
    def label(self) -> str:
        """The file and the prelude's values, for a test's name."""
        return "-".join(
            [self.source_file.removesuffix(".cu"), *(f"{name}={value}" for name, value in self.prelude.items())]
        )


def prelude_text(prelude: Prelude) -> str:
    """The prelude as C++: the half-precision headers, then one alias or constant a line.

    Raises:
        TypeError: a value is neither a C++ type's name nor an int.
    """
    lines = []
    for name, value in prelude.items():
        if isinstance(value, str):
            lines.append(f"using {name} = {value};\n")
        elif isinstance(value, int):
            kind = "int" if -_INT_MAX <= value <= _INT_MAX else "long long"
            lines.append(f"constexpr {kind} {name} = {int(value)};\n")
        else:
            raise TypeError(f"{name}: a prelude holds type names (str) and constants (int), not {type(value).__name__}")
    return _HEADERS + "".join(lines)


def source_text(source_file: str, prelude: Prelude) -> str:
    """The whole text of one module. `#line` makes the compilers name our files in their messages.

    Raises:
        FileNotFoundError: no such file in `cuda_kernels/`.
    """
    root = kernel_folder()
    parts = [prelude_text(prelude)]
    kernels = (_KERNELS[source_file],) if source_file in _KERNELS else ()
    for name in ("common.cuh", *_SHARED.get(source_file, ()), source_file, *kernels):
        parts.append(f'#line 1 "{name}"\n{(root / name).read_text(encoding="utf-8")}\n')
    return "".join(parts)
