"""Seconds until the package is there: imports, `dcnlab --help`, and the first call, which compiles.

    python benchmarks/startup.py --out benchmarks/results/startup_cpu.json

Each in a process of its own. The first call of `deform_conv2d` after its import, forward alone or with its gradients,
imports numba and compiles where the cache is empty; a later process loads what that left on disk; the second call is
the one after.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import measure
import record
from tabulate import tabulate

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import torch": ["-c", "import torch"],
    "import dcnlab.ops": ["-c", "import dcnlab.ops"],
    "import torchvision": ["-c", "import torchvision"],
    "dcnlab --help": ["-m", "dcnlab", "--help"],
}
PASSES = ("forward", "both")


def first_calls(of: str) -> list[float]:
    """Seconds of this process's first and second call."""
    import operators
    import torch

    work = operators.make("ours", operators.Shape(64, 32, 32), torch.float32, "cpu", of == "both")
    taken = []
    for _ in range(2):
        begun = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begun)
    return taken


def in_fresh_process(of: str, cache: str) -> list[float]:
    """The same of a process that has called nothing yet, whose compiled code lies in the folder `cache`."""
    command = [sys.executable, __file__, "--first-calls", of]
    done = subprocess.run(
        command, env={**os.environ, "NUMBA_CACHE_DIR": cache}, check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout)


def first_call_rows(rounds: int, limit: float) -> list[dict[str, Any]]:
    """Measure both passes with an empty cache and with a filled one, in turns; at least one turn."""
    taken: dict[str, list[tuple[float, float, float]]] = {of: [] for of in PASSES}
    begun = time.monotonic()
    for turn in range(rounds):
        if turn and (time.monotonic() - begun) * (turn + 1) / turn > limit:
            break
        for of in PASSES:
            with tempfile.TemporaryDirectory() as cache:
                empty, _ = in_fresh_process(of, cache)
                taken[of].append((empty, *in_fresh_process(of, cache)))
    names = ("empty_cache_seconds", "cached_seconds", "second_seconds")
    return [
        {"command": f"first deform_conv2d, {of}", "turns": len(times)}
        | {name: statistics.median(column) for name, column in zip(names, zip(*times, strict=True), strict=True)}
        for of, times in taken.items()
    ]


def main() -> None:
    """Measure in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="the most turns")
    parser.add_argument("--minutes", type=measure.minutes, help="time limit")
    parser.add_argument("--out", type=Path, help="JSON file")
    parser.add_argument("--first-calls", choices=PASSES, help="of this process; prints JSON, and ends")
    options = parser.parse_args()
    if options.first_calls:
        print(json.dumps(first_calls(options.first_calls)))
        return

    def work(words: list[str]) -> measure.Work:
        return lambda: subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)

    rows: list[dict[str, Any]] = []
    budget = measure.Budget(options.minutes)
    for piece, limit in budget.share({"imports": 1.0, "first calls": 1.0}):
        if piece == "imports":
            works = [work(words) for words in COMMANDS.values()]
            taken = measure.turns(works, options.rounds, "cpu", least=0.0, limit=limit)
            rows += [
                {"command": name, "turns": len(times), "seconds": statistics.median(times.values())}
                for name, times in zip(COMMANDS, taken, strict=True)
            ]
        else:
            rows += first_call_rows(options.rounds, limit)
    print(tabulate(rows, "keys", floatfmt=".2f"))
    if options.out:
        record.write(options.out, "cpu", {"rounds": options.rounds, "left_out": budget.left_out}, rows)


if __name__ == "__main__":
    main()
