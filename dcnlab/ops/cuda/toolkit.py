"""CuPy: which build the installed torch needs, and what is wrong with the installed one."""

from __future__ import annotations

import warnings
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

import torch

from dcnlab.ops.cuda.cache import of_cupy
from dcnlab.ops.cuda.compile import nvrtc_problem

PACKAGES = ("cupy-cuda13x", "cupy-cuda12x", "cupy-cuda11x", "cupy")
"""Distributions of CuPy that work on NVIDIA's GPUs; they write the same files, so that one only may be installed."""

SUPPORTED = "NVIDIA GPUs of compute capability 7.5 (Turing) or newer, and CPUs"
"""Devices that the operators run on."""


def wheel() -> str:
    """The CuPy that fits this torch; where torch is built without CUDA, that of torch's own wheels."""
    return f"cupy-cuda{_major(torch.version.cuda or '13')}x"


def import_cupy() -> ModuleType:
    """CuPy, imported on first use: it takes over a second.

    Raises:
        RuntimeError: torch is built for AMD's GPUs.
        ImportError: CuPy cannot be imported, or is for another CUDA and cannot compile; says what to install.
    """
    if amd_problem() is not None:
        raise RuntimeError(amd_problem())
    try:
        with of_cupy():
            import cupy
    except ImportError as error:
        reason = str(error).strip().splitlines()[0]
        raise ImportError(
            f"dcnlab's operators on CUDA tensors need CuPy: pip install {wheel()} (importing it failed: {reason})"
        ) from error
    _compare()
    return cupy


def amd_problem() -> str | None:
    """One line if torch is built for AMD's GPUs, which this package does not support; else None."""
    built_for = getattr(torch.version, "hip", None)
    if built_for is None:
        return None
    return (
        f"AMD GPUs are not supported (torch is built for ROCm {built_for}); dcnlab's operators run on {SUPPORTED}: "
        f"move the tensors to the CPU"
    )


def installed() -> list[str]:
    """The distributions of CuPy that are installed, with their versions."""
    distributions = []
    for package in PACKAGES:
        try:
            distributions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return distributions


def mismatch() -> str | None:
    """One line where CuPy is built for another CUDA than torch, or is installed twice, with the command that helps.

    None where all is well, where torch is built without CUDA, and where CuPy cannot be imported.
    """
    if torch.version.cuda is None:
        return None
    try:
        with of_cupy():
            from cupy_backends.cuda.api import driver
    except ImportError:
        return None
    packages = [distribution.split()[0] for distribution in installed()]
    remove = " ".join(packages or ["cupy"])
    repair = f"pip uninstall -y {remove} && pip install {wheel()}"
    if len(packages) > 1:
        return f"CuPy is installed {len(packages)} times, as {' and '.join(packages)}, one over the other: {repair}"
    built_for = driver.get_build_version() // 1000
    if built_for == _major(torch.version.cuda):
        return None
    return f"torch is built for CUDA {torch.version.cuda}, CuPy for CUDA {built_for}: {repair}"


@cache
def _compare() -> None:
    """Compare CuPy's CUDA with torch's: an error if they cannot work together, a warning if they may."""
    line = mismatch()
    if line is None:
        return
    problem = nvrtc_problem()
    if problem is not None:
        raise ImportError(f"{line} ({problem})")
    warnings.warn(line, stacklevel=2)


def _major(cuda: str) -> int:
    return int(cuda.split(".")[0])
