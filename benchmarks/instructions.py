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
import difflib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import callgrind
from count_comparison import PINS, Unusable, check_comparable, compare, conditions, read
from instruction_sets import instruction_sets

CALLS, WARM = 6, 20


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
    import record
    import torch

    torch.set_num_threads(1)  # as counted
    if options.out:
        record.write(options.out, "cpu", {**now, "used": used, "calls": CALLS, "warm": WARM}, rows)
    if before is None:
        for each in rows:
            print(f"{each['path']}: {each['instructions']:,}, calls within {each['spread']:.3%}")
        return 0
    here, there = record.machine("cpu")["device"], before["machine"]["device"]
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
