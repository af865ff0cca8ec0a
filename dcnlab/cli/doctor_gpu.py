"""What `dcnlab doctor` checks of the GPU and the operators: CUDA, CuPy, each operator, and the CUDA kernels."""

from __future__ import annotations

import importlib
import pkgutil
from functools import partial
from typing import TYPE_CHECKING, Any

from dcnlab.cli.findings import ABSENT, BROKEN, OK, Findings, attempt

if TYPE_CHECKING:
    import torch


def gpus() -> Findings:
    """CUDA, CuPy, and each GPU by name."""
    import torch

    from dcnlab.ops.cuda import toolkit

    amd = toolkit.amd_problem()
    if amd is not None:
        return [(ABSENT, amd)]
    built = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is built without CUDA"
    if not torch.cuda.is_available():
        return [(ABSENT, f"no GPU ({built}); training runs on the CPU"), *_cupy()]
    findings: Findings = [(OK, built), *_cupy()]
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        findings.append((OK, f"GPU {index}: {device.name}, {device.total_memory / 2**30:.0f} GiB"))
    return findings


def _cupy() -> Findings:
    """CuPy, and whether it fits torch: broken where there is a GPU that needs it."""
    from dcnlab.ops.cuda import toolkit

    packages, problem = toolkit.installed(), toolkit.mismatch()
    if not packages:
        mark = BROKEN if _has_gpu() else ABSENT
        return [(mark, f"cupy is not installed; CUDA tensors need it: pip install {toolkit.wheel()}")]
    return [(OK, ", ".join(packages)) if problem is None else (BROKEN, problem)]


def operators() -> Findings:
    """Each operator against its plain reference, on the CPU, and in every dtype and kind of kernel on a GPU."""
    import torch

    from dcnlab.ops import selftest

    findings = [
        attempt(f"{name}, cpu, forward and backward", partial(_operator, name, "cpu", torch.float64))
        for name in selftest.OPERATORS
    ]
    if _has_gpu():
        findings += [
            attempt(
                f"{name}, cuda, {str(dtype).removeprefix('torch.')}, forward and backward",
                partial(_operator, name, "cuda", dtype),
            )
            for name in selftest.OPERATORS
            for dtype in selftest.TOLERANCES
        ]
    return findings


def _operator(name: str, device: str, dtype: torch.dtype) -> str:
    """Compare an operator and its gradients with the reference, with each kind of kernel.

    Raises:
        RuntimeError: they differ.
    """
    from dcnlab.ops import selftest

    errors = {way: selftest.largest_error(name, device, dtype, way) for way in selftest.ways(name, device, dtype)}
    if device == "cpu":
        return f"equals the reference to {max(errors.values()):.0e}"
    return "equals the reference to " + ", ".join(f"{error:.0e} ({way})" for way, error in errors.items())


def kernels() -> Findings:
    """Compile one variant of each CUDA source file by NVRTC, for this machine's GPU or else for a common one."""
    import torch

    from dcnlab.ops import cuda
    from dcnlab.ops.cuda import toolkit
    from dcnlab.ops.cuda.compile import compile_cubin, nvrtc_problem
    from dcnlab.ops.cuda.source import source_text

    if not toolkit.installed():
        return [(ABSENT, f"none compiled: cupy is not installed: pip install {toolkit.wheel()}")]
    problem = nvrtc_problem()
    if problem is not None:
        return [(ABSENT, f"none compiled: {problem}")]
    major, minor = torch.cuda.get_device_capability() if _has_gpu() else (9, 0)
    arch = 10 * major + minor

    def compiled(source_file: str, prelude: Any) -> str:
        return f"{', '.join(sorted(compile_cubin(source_text(source_file, prelude), arch).kernels))} for sm_{arch}"

    by_file: dict[str, Any] = {}
    for info in pkgutil.iter_modules(cuda.__path__):
        module: Any = importlib.import_module(f"{cuda.__name__}.{info.name}")
        for variant in module.variants() if hasattr(module, "variants") else []:
            if variant.main and variant.least_architecture <= arch:
                by_file.setdefault(variant.source_file, variant.prelude)
    return [attempt(name, partial(compiled, name, prelude)) for name, prelude in by_file.items()]


def _has_gpu() -> bool:
    """Whether there is a GPU of the kind that the operators run on."""
    import torch

    from dcnlab.ops.cuda import toolkit

    return toolkit.amd_problem() is None and torch.cuda.is_available()
