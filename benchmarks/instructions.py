"""Instructions of the main paths on a CPU: a guard with hardly any noise, where seconds vary from run to run.

    python benchmarks/instructions.py --out benchmarks/results/instructions.json
    python benchmarks/instructions.py --against benchmarks/results/instructions.json

The second line prints what changed and where, and exits with 1 where a path has grown: altogether by more than
TOLERANCE, or in our own compiled kernels by more than KERNELS_TOLERANCE. It exits with 2 where counts cannot be
compared: with other versions, other pins, other instruction sets.

One process does all paths (main_paths.py) under valgrind (callgrind.py), in one thread, without the garbage collector,
and counts single calls after others that were not counted. The least of several counts, for what is left of noise only
adds: the allocator's search in what earlier calls freed, and the interpreter, which looks now and then whether it can
specialise a bytecode.

Valgrind executes no AVX-512, and AVX2's fused multiplications in software, at some fifty nanoseconds a number. So our
kernels are compiled for AVX2 with them, as counts should be of code near to what users run, and the libraries' products
are held to AVX and SSE4.2. Inside valgrind a program sees a processor of valgrind's, the same on every machine that has
AVX2; the choices that libc, torch, oneDNN and MKL make by processor, caches' sizes included, are hence the same on
all. Versions of the counted libraries, of libc and of valgrind must be equal. Then an AMD EPYC and an Intel Xeon
counted alike, within what two runs on one of them differ by (TOLERANCE); a comparison across two kinds names both.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import difflib
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
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

CALLS, WARM = 6, 20

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
    found = [
        f"{name} is {now[group].get(name)}, was {before[group].get(name)}"
        for group in now
        for name in sorted({*now[group], *before[group]})
        if now[group].get(name) != before[group].get(name)
    ]
    if found:
        raise Unusable(f"not comparable with {path}: {'; '.join(found)}; `--out {path}` writes it anew")


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


def row(path: str, counts: Sequence[callgrind.Count]) -> dict[str, Any]:
    """The least count of a path's calls, how far the largest is above it, and where the instructions are spent."""
    least = min(counts, key=lambda count: count.total)
    spread = max(count.total for count in counts) / least.total - 1
    # Our own kernels are held to a tolerance of their own, so that none of them is too small to be named.
    small = {
        part: count
        for part, count in least.parts.items()
        if count < least.total / 1000 and not part.startswith("numba: ")
    }
    parts = {part: count for part, count in least.parts.items() if part not in small}
    return {
        "path": path,
        "instructions": least.total,
        "spread": round(spread, 6),
        "parts": parts | {"others": sum(small.values())},
    }


def count(paths: Sequence[str]) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Count paths in a process under valgrind.

    Returns:
        A row for each, and the processor and instruction sets that the process saw and used.
    """
    import dcnlab

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        callgrind.prepare(folder)
        environment = PINS | {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(Path(dcnlab.__file__).resolve().parents[1]),
            "NUMBA_CACHE_DIR": "numba",
            "CUPY_CACHE_DIR": "cupy",
        }
        worker = [sys.executable, "-W", "ignore", str(Path(__file__).resolve())]
        # Without valgrind first: compiling, and showing what does not run, takes seconds there, minutes under it.
        subprocess.run([*worker, "--work", "0", "--paths", *paths], cwd=folder, env=environment, check=True)
        counts = callgrind.run([*worker, "--work", str(CALLS), "--paths", *paths], folder, environment)
        used = json.loads((folder / "used.json").read_text())
    return [row(path, [count for count in counts if count.name == path]) for path in paths], used


def work(paths: Sequence[str], calls: int) -> None:
    """Inside the counted process: do the paths, `calls` times counted; 0 is the run that fills numba's cache."""
    import main_paths
    import torch

    torch.set_num_threads(1)
    counter = callgrind.Counter()
    for path in paths:
        if calls:
            print(f"counting {path}", file=sys.stderr, flush=True)
        torch.manual_seed(0)
        counter.count(path, main_paths.PATHS[path](), calls, warm=WARM if calls else 1)
    used = {"processor seen": counter.processor(), **instruction_sets()}
    Path("used.json").write_text(json.dumps(used))


def instruction_sets() -> dict[str, str]:
    """What numba, torch, oneDNN and MKL really use in this process, as each of them says."""
    import torch
    from numba.core.registry import cpu_target

    with _printed() as text:
        with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
            torch.ops.mkldnn._linear_pointwise(torch.zeros(64, 64), torch.zeros(64, 64), None, "none", [], "")
        with torch.backends.mkl.verbose(torch.backends.mkl.VERBOSE_ON):
            torch.zeros(64, 64, dtype=torch.float64) @ torch.zeros(64, 64, dtype=torch.float64)
    said = {"oneDNN": re.search(r"cpu,isa:(.*)", text[0]), "MKL": re.search(r"architecture (.*) enabled", text[0])}
    return {
        "numba": " ".join(cpu_target.target_context.codegen().magic_tuple()[1:]),
        "torch": torch.backends.cpu.get_cpu_capability(),
        **{name: match[1].strip() if match else "unknown" for name, match in said.items()},
    }


@contextlib.contextmanager
def _printed() -> Iterator[list[str]]:
    """What libraries print to the standard output meanwhile; one text, there at the end."""
    text: list[str] = []
    with tempfile.TemporaryFile() as file:
        libc, outside = ctypes.CDLL(None), os.dup(1)
        libc.fflush(None)
        os.dup2(file.fileno(), 1)
        try:
            yield text
        finally:
            libc.fflush(None)
            os.dup2(outside, 1)
            os.close(outside)
            file.seek(0)
            text.append(file.read().decode(errors="replace"))


def known_paths() -> list[str]:
    """All paths' names."""
    import main_paths

    return list(main_paths.PATHS)


def run(options: argparse.Namespace) -> int:
    """Count, print, write, compare; the exit status.

    Raises:
        Unusable: an unknown path, a file that is none of ours, or counts that cannot be compared.
    """
    before = read(options.against) if options.against else None
    known = known_paths()
    paths = options.paths or known
    named = {path: "" for path in paths}
    if before:
        named |= {row["path"]: f", which {options.against} has" for row in before["rows"]}
    for path, where in named.items():
        if path not in known:
            near = difflib.get_close_matches(path, known, 1, cutoff=0)[0]
            raise Unusable(f"no path {path!r}{where}; nearest is {near!r}")
    paths = sorted(paths, key=known.index)  # paths of CUDA's host code disturb those that follow
    now = conditions()
    if before:
        check_comparable(before["settings"], now, options.against)
    rows, used = count(paths)
    if before:
        check_comparable(before["settings"], {"used": used}, options.against)
    import measure
    import torch

    torch.set_num_threads(1)  # as counted
    if options.out:
        measure.write(options.out, "cpu", {**now, "used": used, "calls": CALLS, "warm": WARM}, rows)
    if before is None:
        for each in rows:
            print(f"{each['path']}: {each['instructions']:,}, calls within {each['spread']:.3%}")
        return 0
    here, there = measure.machine("cpu")["device"], before["machine"]["device"]
    if here != there:
        print(f"counted on {here}, {options.against} on {there}", file=sys.stderr)
    lines, grown = compare(before["rows"], rows)
    print("\n".join(lines))
    return 1 if grown else 0


def main() -> None:
    """Parse, run, exit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--against", type=Path, help="JSON file to hold the counts against")
    parser.add_argument("--paths", nargs="+", metavar="PATH", help="some of the paths; all where absent")
    parser.add_argument("--work", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work is not None:
        work(options.paths, options.work)
        return
    try:
        status = run(options)
    except (Unusable, callgrind.MissingTool) as error:
        print(error, file=sys.stderr)
        status = 2
    sys.exit(status)


if __name__ == "__main__":
    main()
