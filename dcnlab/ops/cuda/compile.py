"""The kernels' source texts, and their compilation by NVRTC without a GPU.

A module is one text: a generated prelude (types and constants of the variant), `common.cuh`, what the file shares with
some others, and one `.cu` file. It includes no file of the project, because the cache on disk is keyed by the text and
would not see an included file change.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from dcnlab.ops.cuda.cache import of_cupy

ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
"""Compute capabilities the kernels are proven to compile for: Turing to Blackwell."""

OPTIONS = ("-std=c++17",)
"""What a module is compiled with, besides include paths, `-ftz=true` and the architecture."""

C_TYPES: Mapping[torch.dtype, str] = {
    torch.float64: "double",
    torch.float32: "float",
    torch.float16: "__half",
    torch.bfloat16: "__nv_bfloat16",
}
"""The C++ type of a tensor's elements, as a prelude names it."""

Prelude = Mapping[str, str | int]
"""What a variant defines before the source: a string becomes a type alias, an int a constant."""

_SHARED: Mapping[str, tuple[str, ...]] = {
    "deform_conv2d.cu": ("conv_rows.cuh", "conv_sort.cuh"),
    "deform_conv2d_depthwise.cu": ("conv_rows.cuh", "conv_sort.cuh"),
    "deform_conv2d_fused.cu": ("conv_rows.cuh", "mma.cuh"),
    "deform_ps_roi_pool.cu": ("roi_bins.cuh",),
    "deform_roi_pool.cu": ("roi_bins.cuh",),
}
"""What a kernel file shares with others, between `common.cuh` and itself."""

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


class KernelCompileError(RuntimeError):
    """NVRTC refused a kernel's source; the message is its log."""


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


@dataclass(frozen=True)
class KernelResources:
    """What ptxas says of one kernel; sizes in bytes. Spills, and arrays indexed at run time, lie in local memory."""

    registers: int
    shared: int
    stack: int
    spill_stores: int
    spill_loads: int

    @property
    def local_memory(self) -> int:
        """Bytes of local memory and of traffic to it: 0 when everything stays in registers."""
        return self.stack + self.spill_stores + self.spill_loads


@dataclass(frozen=True)
class CompileReport:
    """What NVRTC made of one source text for one architecture."""

    cubin: bytes
    log: str
    kernels: dict[str, KernelResources]
    """By kernel name."""

    @property
    def warnings(self) -> list[str]:
        """The compiler's warnings, one line each."""
        return [line for line in self.log.splitlines() if re.search(r"\bwarning\b.*:", line)]


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
    for name in ("common.cuh", *_SHARED.get(source_file, ()), source_file):
        parts.append(f'#line 1 "{name}"\n{(root / name).read_text(encoding="utf-8")}\n')
    return "".join(parts)


@cache
def nvrtc_problem() -> str | None:
    """Why nothing can be compiled here: one line, or None where NVRTC works. It needs no GPU."""
    try:
        with of_cupy():
            from cupy_backends.cuda.libs import nvrtc

        nvrtc.getVersion()
    except Exception as error:  # CuPy raises RuntimeError, ImportError or its own, by what is missing
        return f"NVRTC does not load through CuPy: {str(error).strip().splitlines()[0]}"
    return None


def options(architecture: str) -> tuple[str, ...]:
    """All of NVRTC's options for one architecture, with CuPy's include paths.

    Args:
        architecture: `sm_90` for machine code, `compute_90` for PTX.

    Raises:
        ImportError: CuPy is not installed.
    """
    with of_cupy():
        from cupy._core import core

    fixed = ("-ftz=true", "--device-as-default-execution-space", "--ptxas-options=-v")
    return (*core.assemble_cupy_compiler_options(OPTIONS), *fixed, f"-arch={architecture}")


def compile_cubin(source: str, arch: int) -> CompileReport:
    """Compile a text for one architecture; this needs no GPU.

    Args:
        source: from `source_text`.
        arch: compute capability times ten: 90 for Hopper.

    Raises:
        KernelCompileError: with NVRTC's log.
        ImportError: CuPy is not installed.
    """
    from cupy_backends.cuda.libs import nvrtc

    with _program(source, f"sm_{arch}") as program:
        log = _log(program)
        # CuPy cuts off the last byte, as if it ended a string; disassemblers miss it.
        return CompileReport(nvrtc.getCUBIN(program) + b"\0", log, parse_resources(log))


def compile_ptx(source: str, arch: int) -> bytes:
    """Compile a text to PTX, which a driver compiles for GPUs that are newer than NVRTC; a zero byte ends it.

    Args:
        source: from `source_text`.
        arch: compute capability times ten, of the oldest GPU that may run it.

    Raises:
        KernelCompileError: with NVRTC's log.
        ImportError: CuPy is not installed.
    """
    from cupy_backends.cuda.libs import nvrtc

    with _program(source, f"compute_{arch}") as program:
        return bytes(nvrtc.getPTX(program)).rstrip(b"\0") + b"\0"


@contextmanager
def _program(source: str, architecture: str) -> Iterator[int]:
    """A program that NVRTC has compiled."""
    from cupy_backends.cuda.libs import nvrtc

    program = nvrtc.createProgram(source, "module.cu", (), ())
    try:
        try:
            nvrtc.compileProgram(program, options(architecture))
        except nvrtc.NVRTCError as error:
            raise KernelCompileError(f"{architecture}: {error}\n{_log(program)}") from error
        yield program
    finally:
        nvrtc.destroyProgram(program)


def parse_resources(log: str) -> dict[str, KernelResources]:
    """Read what `ptxas -v` prints of each kernel; functions that were not inlined count for the kernel above them."""
    kernels = {}
    for section in re.split(r"Compiling entry function ", log)[1:]:
        name = re.match(r"'(\w+)'", section)
        used = re.search(r"Used (\d+) registers", section)
        if name is None or used is None:
            raise ValueError(f"ptxas prints another form than expected: {section.strip()}")
        shared = re.search(r"(\d+) bytes smem", section)
        stack, stores, loads = (
            sum(int(size) for size in re.findall(rf"(\d+) bytes {what}", section))
            for what in ("stack frame", "spill stores", "spill loads")
        )
        kernels[name[1]] = KernelResources(int(used[1]), int(shared[1]) if shared else 0, stack, stores, loads)
    return kernels


def _log(program: int) -> str:
    from cupy_backends.cuda.libs import nvrtc

    return str(nvrtc.getProgramLog(program)).rstrip("\0\n")
