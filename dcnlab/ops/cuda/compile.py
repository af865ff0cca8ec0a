"""Compilation of the kernels by NVRTC, without a GPU, and what the compiler says of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

from dcnlab.ops.cuda.cache import of_cupy

OPTIONS = ("-std=c++17",)
"""Compiler options of a module, in addition to include paths, `-ftz=true` and the architecture."""


class KernelCompileError(RuntimeError):
    """NVRTC refused a kernel's source; the message is its log."""


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
    """NVRTC's output for one source text and one architecture."""

    cubin: bytes
    log: str
    kernels: dict[str, KernelResources]
    """By kernel name."""

    @property
    def warnings(self) -> list[str]:
        """The compiler's warnings, one line each."""
        return [line for line in self.log.splitlines() if re.search(r"\bwarning\b.*:", line)]


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
