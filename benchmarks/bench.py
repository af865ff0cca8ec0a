"""What can be measured on a CPU in ten minutes, beside the peers, and the pages' tables from it: `make bench`.

    python benchmarks/bench.py --minutes 10 --data ../shared/data

Each part is a script of its own in a process of its own, and writes benchmarks/results/PART_cpu.json whole when it
ends; a part that fails or is interrupted leaves the file that was there. What a part leaves of its share of the time
goes to those after it. A second call measures everything anew.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
PAGES = ("README.md", "docs/benchmarks.md", "docs/fidelity.md")
KEPT = 0.4
"""Minutes for the pages, and for a last measurement that takes longer than its share."""

PARTS: dict[str, tuple[float, list[str]]] = {
    "startup": (8, ["startup.py", "--rounds", "5"]),
    "scoring": (4, ["under_load.py", "--parts", "scoring", "--scored", "500", "--rounds", "5"]),
    "feeding": (7, ["feeding.py"]),
    "networks": (18, ["networks.py", "--rounds", "7"]),
    "growth": (14, ["growth.py", "--rounds", "5", "--figure", "docs/images/growth_cpu.png"]),
    "roi_pooling": (5, ["roi_pooling.py", "--rounds", "7"]),
    "depthwise": (5, ["operators_cpu.py", "--shapes", "depthwise", "--rounds", "7"]),
    "operators": (39, ["operators_cpu.py", "--rounds", "7"]),
}
"""Percent of the time, and the script with its options; the largest last, so that it gets what the others leave."""


def measure(names: list[str], minutes: float, threads: int, data: Path | None) -> list[str]:
    """Run some of the parts one after another; the names of those that failed."""
    # One setting for torch, oneDNN, MKL and our own threads, in processes of processes too; no GPU takes part.
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    environment |= {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.pathsep.join(_paths())}
    end = time.monotonic() + 60 * (minutes - KEPT)
    failed = []
    for number, name in enumerate(names):
        weight, (script, *options) = PARTS[name]
        left = max(end - time.monotonic(), 1.0) / 60
        share = left * weight / sum(PARTS[later][0] for later in names[number:])
        print(f"\n{name}: {share:.1f} of {left:.1f} minutes", flush=True)
        options += ["--minutes", str(share), "--out", f"benchmarks/results/{name}_cpu.json"]
        if name == "feeding" and data and data.is_dir():
            options += ["--data", str(data.resolve())]
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
            if _run([sys.executable, str(HERE / script), *options], environment | {"TMPDIR": scratch}):
                failed.append(name)
    return failed


def _run(command: list[str], environment: dict[str, str]) -> int:
    """Exit status of a command, with all its processes it ends, without a word, when we are interrupted."""
    process = subprocess.Popen(command, cwd=HERE.parent, env=environment, start_new_session=True)
    try:
        return process.wait()
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise


def _paths() -> list[str]:
    return [str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]


def main() -> None:
    """Measure, fill the pages, say how it went."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--parts", nargs="+", choices=tuple(PARTS), default=list(PARTS))
    parser.add_argument("--data", type=Path, help="folder of real photographs for feeding.py; without it they are made")
    options = parser.parse_args()
    if not options.minutes > KEPT:
        parser.error(f"--minutes is {options.minutes:g}; must be more than {KEPT:g}")
    if options.threads < 1:
        parser.error(f"--threads is {options.threads}; must be at least 1")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    begun = time.monotonic()
    try:
        names = [name for name in PARTS if name in options.parts]
        failed = measure(names, options.minutes, options.threads, options.data)
    except KeyboardInterrupt:
        print("\ninterrupted: parts that ended are kept, the other files and the pages are as before", file=sys.stderr)
        sys.exit(130)
    fill = [sys.executable, HERE.parent / "tools/evidence.py", "fill", "--only", "python benchmarks/", *PAGES]
    filled = subprocess.run(fill, cwd=HERE.parent).returncode == 0
    print(f"{(time.monotonic() - begun) / 60:.1f} minutes")
    if failed:
        print(f"failed, so that their figures are those from before: {', '.join(failed)}", file=sys.stderr)
    sys.exit(1 if failed or not filled else 0)


if __name__ == "__main__":
    main()
