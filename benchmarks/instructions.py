"""Instructions of the operators' main paths on a CPU: a guard without noise, where seconds vary from run to run.

    python benchmarks/instructions.py --out benchmarks/results/instructions.json
    python benchmarks/instructions.py --against benchmarks/results/instructions.json    # exit status 1 beyond 2% more

Valgrind counts a process that does the work once and one that does it three times; half the difference is one call,
free of start and compilation. One thread, and the instruction set is held to AVX2, which valgrind executes, for numba,
oneDNN and MKL each by its own variables, so that the count is the program's, not the machine's. It depends on the
versions of torch, numba and llvmlite, which the JSON names.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ENVIRONMENT = {
    "NUMBA_CPU_NAME": "haswell",
    "NUMBA_CPU_FEATURES": "+avx,+avx2,+fma,+bmi,+bmi2,+popcnt,+sse4.2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
}
PATHS = ("deform_conv2d forward", "deform_conv2d both", "deform_ps_roi_pool both", "deform_roi_pool both")
TOLERANCE = 0.02


def work(path: str, calls: int) -> None:
    """Do one of the paths so many times, in this process."""
    import torch

    from dcnlab import ops

    torch.manual_seed(0)
    torch.set_num_threads(1)
    name, kind = path.split()
    if name == "deform_conv2d":
        leaves = [torch.randn(1, 64, 24, 24), torch.randn(1, 18, 24, 24) * 2, torch.randn(64, 64, 3, 3)]
    else:
        grid = 7 if name == "deform_ps_roi_pool" else 1
        boxes = torch.cat([torch.zeros(16, 1), torch.rand(16, 2) * 12, torch.rand(16, 2) * 12 + 12], 1)
        leaves = [torch.randn(1, 4 * grid**2, 32, 32), torch.randn(16, 2, 7, 7) * 0.1]
    if kind == "both":
        leaves = [leaf.requires_grad_() for leaf in leaves]
    for _ in range(calls):
        if name == "deform_conv2d":
            output = ops.deform_conv2d(*leaves, padding=1)
        elif name == "deform_ps_roi_pool":
            output = ops.deform_ps_roi_pool(leaves[0], boxes, leaves[1], 7, group_size=7)
        else:
            output = ops.deform_roi_pool(leaves[0], boxes, leaves[1], 7, sampling_ratio=2)
        if kind == "both":
            torch.autograd.grad(output.sum(), leaves)


def count(path: str, calls: int, valgrind: str) -> int:
    """Instructions of a process that does the path so many times."""
    command = [sys.executable, __file__, "--work", path, "--calls", str(calls)]
    environment = os.environ | ENVIRONMENT
    subprocess.run(command, env=environment, check=True)  # fills numba's cache, so that nothing compiles while counted
    with tempfile.TemporaryDirectory() as folder:
        counter = [valgrind, "--tool=cachegrind", "--cache-sim=no", f"--cachegrind-out-file={folder}/out"]
        done = subprocess.run([*counter, *command], env=environment, check=True, capture_output=True, text=True)
    return int(re.search(r"I\s+refs:\s+([0-9,]+)", done.stderr)[1].replace(",", ""))  # type: ignore[index]


def main() -> None:
    """Count, print, write, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--against", type=Path, help="JSON file to hold the counts against")
    parser.add_argument("--paths", nargs="+", choices=PATHS, default=list(PATHS))
    parser.add_argument("--work", choices=PATHS, help=argparse.SUPPRESS)
    parser.add_argument("--calls", type=int, default=1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work, options.calls)
        return
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        sys.exit("no valgrind; on Debian: apt-get install valgrind")
    before = {}
    if options.against:
        before = {row["path"]: row["instructions"] for row in json.loads(options.against.read_text())["rows"]}
    rows: list[dict[str, Any]] = []
    for path in options.paths:
        once, thrice = (count(path, calls, valgrind) for calls in (1, 3))
        row: dict[str, Any] = {"path": path, "instructions": (thrice - once) // 2}
        if path in before:
            row["change"] = row["instructions"] / before[path] - 1
        rows.append(row)
        print("  ".join(f"{value:+.2%}" if key == "change" else f"{value}" for key, value in row.items()), flush=True)
    if options.out:
        import measure

        measure.write(options.out, "cpu", {"threads": 1, **ENVIRONMENT}, rows)
    grown = [row["path"] for row in rows if row.get("change", 0) > TOLERANCE]
    if grown:
        sys.exit(f"more than {TOLERANCE:.0%} more instructions: {', '.join(grown)}")


if __name__ == "__main__":
    main()
