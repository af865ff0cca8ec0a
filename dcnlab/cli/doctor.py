"""`dcnlab doctor`: checks packages, GPUs, operators and data on this machine, and lists problems."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from rich.console import Console

from dcnlab.config import packaged
from dcnlab.config.names import DATA_SETS
from dcnlab.io import machine
from dcnlab.io.text import visible
from dcnlab.training import environment

if TYPE_CHECKING:
    import torch

OK, ABSENT, BROKEN = "ok", "--", "FAILED"


def run() -> int:
    """Print every finding, a line each.

    Returns:
        0 where everything that can work here works, 1 where something that should is broken.
    """
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    status, last = 0, None
    for title, mark, text in findings():
        if title != last:
            console.print(title, style="bold")
            last = title
        console.print(f"  {mark:7}{visible(text)}")
        status |= mark == BROKEN
    return status


def findings(titles: Sequence[str] | None = None) -> Iterator[tuple[str, str, str]]:
    """Title, mark and text of every finding.

    Args:
        titles: the sections to look into; all of them by default.
    """
    for title, check in _CHECKS:
        if titles is None or title in titles:
            for mark, text in check():
                yield title, mark, text


Findings = list[tuple[str, str]]


def versions() -> Findings:
    """Python, ours, and the packages that the work rests on."""
    findings: Findings = [(OK, f"python {platform.python_version()}, {machine.cpus()} cores")]
    for package in ("dcnlab", "torch", "torchvision", "pytorch-lightning", "torchmetrics", "numba", "wandb"):
        version = environment.version(package)
        if package == "dcnlab" and version is None:
            version = f"from {packaged.PACKAGE.parent}"
        findings.append((OK, f"{package} {version}") if version else (BROKEN, f"{package} is not installed"))
    return findings


def _cupy() -> Findings:
    """CuPy, and whether it fits torch: broken where there is a GPU that needs it."""
    from dcnlab.ops.cuda import toolkit

    packages, problem = toolkit.installed(), toolkit.mismatch()
    if not packages:
        mark = BROKEN if _has_gpu() else ABSENT
        return [(mark, f"cupy is not installed; CUDA tensors need it: pip install {toolkit.wheel()}")]
    return [(OK, ", ".join(packages)) if problem is None else (BROKEN, problem)]


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


def operators() -> Findings:
    """Each operator against its plain reference, on the CPU, and in every dtype and kind of kernel on a GPU."""
    import torch

    from dcnlab.ops import selftest

    findings = [
        _attempt(f"{name}, cpu, forward and backward", partial(_operator, name, "cpu", torch.float64))
        for name in selftest.OPERATORS
    ]
    if _has_gpu():
        findings += [
            _attempt(
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
    """The CUDA kernels that NVRTC compiles here, for the GPU that is there or else for a common one."""
    import torch

    from dcnlab.ops.cuda import conv_variants, fused, roi_pool, toolkit
    from dcnlab.ops.cuda.compile import compile_cubin, nvrtc_problem
    from dcnlab.ops.cuda.source import source_text

    if not toolkit.installed():
        return [(ABSENT, f"none compiled: cupy is not installed: pip install {toolkit.wheel()}")]
    problem = nvrtc_problem()
    if problem is not None:
        return [(ABSENT, f"none compiled: {problem}")]
    major, minor = torch.cuda.get_device_capability() if _has_gpu() else (9, 0)
    arch = 10 * major + minor

    def compiled(source_file: str, preludes: list[Any]) -> str:
        reports = [compile_cubin(source_text(source_file, prelude), arch) for prelude in preludes]
        names = sorted({name for report in reports for name in report.kernels})
        return f"{', '.join(names)}; {len(reports)} variants for sm_{arch}"

    by_file: dict[str, list[Any]] = {}
    for variant in [*conv_variants.variants(), *fused.variants(), *roi_pool.variants()]:
        if variant.main and variant.least_architecture <= arch:
            by_file.setdefault(variant.source_file, []).append(variant.prelude)
    return [_attempt(name, partial(compiled, name, preludes)) for name, preludes in by_file.items()]


def data_roots() -> Findings:
    """The embedded data, and the folder layouts of the other data sets."""
    from dcnlab.data.digits.scenes import DigitScenes

    def digits() -> str:
        counts = {split: len(DigitScenes(split)) for split in ("train", "val", "test")}
        return ", ".join(f"{count} {split}" for split, count in counts.items())

    others = [
        (ABSENT, f"{name}: {data_set.layout}: data.root=ROOT")
        for name, data_set in DATA_SETS.items()
        if data_set.layout is not None
    ]
    return [_attempt("digits (embedded)", digits), *others]


def files() -> Findings:
    """The packaged experiments and sweeps."""

    def names(kind: str) -> str:
        return ", ".join(packaged.names(kind)) or "none"

    return [_attempt(kind, partial(names, kind)) for kind in ("experiments", "sweeps")]


def wandb_mode() -> Findings:
    """Where wandb would write."""
    from dcnlab.training.loggers import console

    source = "as WANDB_MODE says" if os.environ.get("WANDB_MODE") else "the default; WANDB_MODE=online uploads"
    return [_attempt("mode", lambda: f"{console.wandb_mode()}, {source}")]


def _has_gpu() -> bool:
    """Whether there is a GPU of the kind that the operators run on."""
    import torch

    from dcnlab.ops.cuda import toolkit

    return toolkit.amd_problem() is None and torch.cuda.is_available()


def _attempt(what: str, check: Callable[[], str]) -> tuple[str, str]:
    """Run a check; whatever it raises is a finding, not an end."""
    try:
        return OK, f"{what}: {check()}"
    except Exception as error:
        return BROKEN, f"{what}: {type(error).__name__}: {' '.join(str(error).split())}"


_CHECKS: tuple[tuple[str, Callable[[], Findings]], ...] = (
    ("versions", versions),
    ("GPUs", gpus),
    ("operators", operators),
    ("CUDA kernels", kernels),
    ("data", data_roots),
    ("packaged files", files),
    ("wandb", wandb_mode),
)
