"""Keeps a benchmark's rows, with the machine and the day that they are of."""

from __future__ import annotations

import datetime
import json
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from dcnlab.io.atomic import write_whole
from dcnlab.ops.cuda import toolkit


class Rows(list[dict[str, Any]]):
    """A benchmark's rows; each is appended to a file of JSON lines when it comes, so that a time limit loses none.

    Args:
        path: of the file; None keeps no file.
    """

    def __init__(self, path: Path | None = None) -> None:
        super().__init__()
        self._path = path

    def append(self, row: dict[str, Any]) -> None:
        """Add a row."""
        super().append(row)
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


def machine(device: str) -> dict[str, Any]:
    """What a result must name: device, versions, threads and the day."""
    return {
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "device": torch.cuda.get_device_name() if device == "cuda" else _cpu_name(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "cuda": torch.version.cuda if device == "cuda" else None,
        "cupy": _cupy() if device == "cuda" else None,
        **{name: _version(name) for name in ("torch", "torchvision", "numba", "numpy", "dcnlab")},
    }


def _version(package: str) -> str | None:
    """None for what runs from a checkout."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cupy() -> str:
    """CuPy's version, and that of the compiler in it, which makes the kernels."""
    cupy = toolkit.import_cupy()
    from cupy_backends.cuda.libs import nvrtc

    return f"{cupy.__version__}, NVRTC {'.'.join(map(str, nvrtc.getVersion()))}"


def write(path: Path, device: str, settings: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Keep a benchmark's outcome, whole, with the machine and the day that it is of; nothing is no outcome."""
    if not rows:
        sys.exit(f"nothing was measured; {path} is as before")
    path.parent.mkdir(parents=True, exist_ok=True)
    result = {"schema": 1, "machine": machine(device), "settings": settings, "rows": rows}
    write_whole(path, json.dumps(result, indent=1) + "\n")


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {len(names)} cores"
