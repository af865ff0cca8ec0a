"""Compares counts of instructions with older ones, if both were taken under equal conditions."""

from __future__ import annotations

import contextlib
import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import callgrind

PINS = {
    "NUMBA_CPU_NAME": "haswell",
    "NUMBA_CPU_FEATURES": "+avx,+avx2,+fma,+bmi,+bmi2,+popcnt,+sse4.2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX",
    "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
    # The allocator keeps all it gets, and small blocks by their size: the cost of one does not depend on the others.
    "PYTHONMALLOC": "malloc",
    "GLIBC_TUNABLES": "glibc.malloc.tcache_count=65535",
    "MALLOC_TOP_PAD_": str(64 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
}
"""The counted process's whole environment, but for where it finds Python, its modules and numba's cache."""

PACKAGES = ("torch", "torchvision", "numba", "llvmlite", "numpy", "pillow", "pytorch-lightning", "faster-coco-eval")

TOLERANCE = 0.01
"""Of a path's growth.

Calls of one run differ by 0.01% to 2.4%. Their least differed from run to run by at most 0.07%, and by 0.2% where
something else in the process had changed or the processor was another, but for surgery's, nearly all the
interpreter's: by 0.8%.
"""

KERNELS_TOLERANCE = 0.02
"""Of growth within our kernels, which may be a small part of a path.

They are equal from run to run to the instruction, but for the training step's, which differ by up to 1.6%, in steps of
two instructions a call of the inner loop: most likely that loop's test whether two arrays overlap, which takes one
comparison or two as the allocator happens to order them.
"""


class Unusable(ValueError):
    """Counts cannot be taken or compared; one line."""


def conditions() -> dict[str, Any]:
    """What counts depend on, before anything is counted."""
    versions = {name: version(name) for name in PACKAGES}
    versions |= {"Python": platform.python_version(), "libc": " ".join(platform.libc_ver()), "cupy": _cupy_version()}
    return {"versions": versions | {"valgrind": callgrind.version()}, "pins": PINS}


def _cupy_version() -> str:
    """Of the package for any CUDA; `none` where CuPy is not installed."""
    for name in ("cupy-cuda13x", "cupy-cuda12x", "cupy"):
        with contextlib.suppress(PackageNotFoundError):
            return version(name)
    return "none"


def read(path: Path) -> dict[str, Any]:
    """Read a file that this program wrote.

    Raises:
        Unusable: it did not.
    """
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise Unusable(f"{path} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise Unusable(f"{path} is not JSON ({error})") from error
    try:
        rows = {row["path"]: (int(row["instructions"]), dict(row["parts"])) for row in content["rows"]}
        right = (
            content["schema"] == 1
            and rows
            and content["machine"]["device"]
            and {"versions", "pins", "used"} <= content["settings"].keys()
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        right = False
    if not right:
        raise Unusable(f"{path} is not a file of counts; `--out {path}` writes one")
    return content


def check_comparable(before: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> None:
    """See whether two sets of conditions are equal, as far as the second goes.

    Raises:
        Unusable: they are not; names each that differs.
    """
    differences = [
        f"{name} is {now[group].get(name)}, was {before[group].get(name)}"
        for group in now
        for name in sorted({*now[group], *before[group]})
        if now[group].get(name) != before[group].get(name)
    ]
    if differences:
        raise Unusable(f"not comparable with {path}: {'; '.join(differences)}; `--out {path}` writes it anew")


def kernels(parts: Mapping[str, int]) -> int:
    """Instructions in our own compiled functions."""
    return sum(count for part, count in parts.items() if part.startswith("numba: "))


def compare(before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """Hold rows against older ones.

    Returns:
        A line for each path, with the parts that changed by more than a fifth of the tolerance; and the paths that have
        grown too much.
    """
    older = {row["path"]: row for row in before}
    lines, grown = [], []
    for row in now:
        path, count, parts = row["path"], row["instructions"], row["parts"]
        if path not in older:
            lines.append(f"{path}: {count:,}, new")
            continue
        was, parts_were = older[path]["instructions"], older[path]["parts"]
        change = count / was - 1
        ours, ours_were = kernels(parts), kernels(parts_were)
        in_ours = ours_were > 0 and ours / ours_were - 1 > KERNELS_TOLERANCE
        # Work may move into our kernels and make the whole cheaper.
        too_much = change > TOLERANCE or (in_ours and change > -TOLERANCE)
        moved = {part: parts.get(part, 0) - parts_were.get(part, 0) for part in {*parts, *parts_were}}
        named = [
            f"{part} {by:+,}"
            for part, by in sorted(moved.items(), key=lambda item: (-abs(item[1]), item[0]))
            if abs(by) > TOLERANCE / 5 * was
        ]
        in_kernels = f", kernels {ours / ours_were - 1:+.2%}" if ours_were else ""
        where = f" ({'; '.join(named)})" if named else ""
        lines.append(f"{path}: {count:,}, {change:+.2%}{in_kernels}{where}{', TOO MUCH' if too_much else ''}")
        if too_much:
            grown.append(path)
    return lines, grown
