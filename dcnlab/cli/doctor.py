"""`dcnlab doctor`: checks packages, GPUs, operators and data on this machine, and lists problems."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from rich.console import Console

from dcnlab.cli.doctor_gpu import gpus, kernels, operators
from dcnlab.cli.findings import ABSENT, BROKEN, OK, Findings, attempt
from dcnlab.config import packaged
from dcnlab.config.names import DATA_SETS
from dcnlab.io import machine
from dcnlab.io.text import visible
from dcnlab.training import environment


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


def versions() -> Findings:
    """Python, ours, and the packages that the work rests on."""
    findings: Findings = [(OK, f"python {platform.python_version()}, {machine.cpus()} cores")]
    for package in ("dcnlab", "torch", "torchvision", "pytorch-lightning", "torchmetrics", "numba", "wandb"):
        version = environment.version(package)
        if package == "dcnlab" and version is None:
            version = f"from {packaged.PACKAGE.parent}"
        findings.append((OK, f"{package} {version}") if version else (BROKEN, f"{package} is not installed"))
    return findings


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
    return [attempt("digits (embedded)", digits), *others]


def files() -> Findings:
    """The packaged experiments and sweeps."""

    def names(kind: str) -> str:
        return ", ".join(packaged.names(kind)) or "none"

    return [attempt(kind, partial(names, kind)) for kind in ("experiments", "sweeps")]


def wandb_mode() -> Findings:
    """Where wandb would write."""
    from dcnlab.training.loggers import wandb_start

    source = "as WANDB_MODE says" if os.environ.get("WANDB_MODE") else "the default; WANDB_MODE=online uploads"
    return [attempt("mode", lambda: f"{wandb_start.mode()}, {source}")]


_CHECKS: tuple[tuple[str, Callable[[], Findings]], ...] = (
    ("versions", versions),
    ("GPUs", gpus),
    ("operators", operators),
    ("CUDA kernels", kernels),
    ("data", data_roots),
    ("packaged files", files),
    ("wandb", wandb_mode),
)
