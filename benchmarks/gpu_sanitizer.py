"""The part of gpu_check.py that runs a handful of GPU tests under NVIDIA's compute-sanitizer, a row for each tool.

    python benchmarks/gpu_sanitizer.py --rows FILE

Exit status 1 where a tool found something, 4 where compute-sanitizer is not installed.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from gpu_parts import GPU_TESTS, ROOT, SANITIZED

TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
PLACES = ("/usr/local/cuda/bin", "/usr/local/cuda/compute-sanitizer", "/opt/cuda/bin")
ABSENT = 4


def command(sanitizer: str, tool: str) -> list[str]:
    """The call of one tool: its exit status is 9 where it found something, else pytest's."""
    checks = [sanitizer, "--tool", tool, "--error-exitcode", "9", "--target-processes", "all"]
    tests = ["-m", "pytest", "-p", "no:cacheprovider", "-q", "--tb=line", "-m", "gpu and not slow"]
    return [*checks, sys.executable, *tests, "-k", SANITIZED, *GPU_TESTS]


def main() -> None:
    """Parse, run each tool, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, required=True, help="file of JSON lines, a row for each tool")
    options = parser.parse_args()
    sanitizer = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path=":".join(PLACES))
    if sanitizer is None:
        print("compute-sanitizer is not installed; it comes with the CUDA toolkit", file=sys.stderr)
        sys.exit(ABSENT)
    status = 0
    for tool in TOOLS:
        begun = time.monotonic()
        done = subprocess.run(command(sanitizer, tool), cwd=ROOT, capture_output=True, text=True, check=False)
        lines = [line for line in done.stdout.splitlines() if line.startswith("=========")]
        summary = next((line.strip("= ") for line in reversed(lines) if re.search("SUMMARY", line)), "no summary")
        row = {"tool": tool, "status": done.returncode, "summary": summary, "seconds": time.monotonic() - begun}
        if done.returncode:
            row["output"] = (lines or done.stdout.splitlines())[:40]
            status = 1
        with options.rows.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{tool}: {summary}", flush=True)
    sys.exit(status)


if __name__ == "__main__":
    main()
