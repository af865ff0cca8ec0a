"""One call that shows on a GPU whether the kernels are right and how fast they are: `make gpu-check`.

    python benchmarks/gpu_check.py --minutes 9          on a machine with an NVIDIA GPU, with or without network
    python benchmarks/gpu_check.py --dry                every part that can, at a tiny size on a CPU
    python benchmarks/gpu_check.py --list-wheels        what must travel to a bare machine that has gpu_parts.GIVEN

Parts (gpu_parts.py) run one after another, each in a separate process and within a part of the time. Their rows
reach one JSON file as they come, so that a time limit, also one from outside, loses nothing that was measured. At the
end one page says what came out and what to look at. Exit status: 0 where all is well, 1 where a part failed, 2 where it
could not begin, 130 where it was interrupted.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gpu_page
from gpu_parts import PARTS, ROOT, Part, missing, pinned

KEPT = 10.0
"""Seconds for the page, and for the end of a part that is stopped."""
SOFT = 0.85
"""Of a part's time, what its own limit is: it needs the rest to start and to end."""
TAIL = 30
"""Lines of a part's output that are kept where it failed."""
NO_GPU, ABSENT = 3, 4
"""Exit statuses of parts: no GPU, a tool that is not installed."""


class Result:
    """The JSON file, written whole whenever something has come."""

    def __init__(self, path: Path, minutes: float, dry: bool) -> None:
        self.path = path
        started = datetime.datetime.now(tz=datetime.UTC).isoformat(timespec="seconds")
        self.content: dict[str, Any] = {"schema": 1, "started": started, "minutes": minutes, "dry": dry, "machine": {}}
        self.content["parts"] = {}

    def keep(self, name: str, **fields: Any) -> None:
        """Set fields of a part."""
        self.content["parts"].setdefault(name, {"rows": []}).update(fields)
        self.write()

    def take(self, name: str, lines: list[str]) -> None:
        """Add a part's rows, which are lines of JSON."""
        for row in map(json.loads, lines):
            if "machine" in row:
                self.content["machine"] = row["machine"]
            else:
                self.content["parts"][name]["rows"].append(row)
        self.write()

    def write(self) -> None:
        """Write the file, whole."""
        part = self.path.with_name(f".{self.path.name}.part")
        part.write_text(json.dumps(self.content, indent=1) + "\n", encoding="utf-8")
        part.replace(self.path)


def run(parts: list[Part], seconds: float, dry: bool, result: Result, environment: dict[str, str]) -> None:
    """Run the parts, each for at most its share of the time that is left."""
    end = time.monotonic() + seconds - KEPT
    for number, part in enumerate(parts):
        command = part.dry if dry else part.command
        left = end - time.monotonic()
        limit = left * part.weight / sum(later.weight for later in parts[number:])
        if command is None or left <= 0:
            result.keep(part.name, status="left out", why="needs a GPU" if command is None else "no time was left")
            continue
        print(f"{part.name}: at most {limit:.0f} of {left:.0f} seconds", flush=True)
        status = _run(part.name, command, limit, result, environment)
        if status == NO_GPU:
            sys.exit("gpu_check: there is no CUDA GPU here; --dry tries the parts on the CPU")


def _run(name: str, command: tuple[str, ...], limit: float, result: Result, environment: dict[str, str]) -> int | None:
    """Run one part; its exit status, or None where it was stopped at its limit."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        rows, log = Path(scratch, "rows"), Path(scratch, "log")
        values = {"{rows}": str(rows), "{minutes}": f"{SOFT * limit / 60:.3f}"}
        words = [sys.executable, *(values.get(word, word) for word in command)]
        result.keep(name, status="running", command=" ".join(command), limit=round(limit, 1))
        begun, taken, status = time.monotonic(), 0, None
        with log.open("wb") as output, _process(words, output, environment) as process:
            while status is None and time.monotonic() - begun < limit:
                try:
                    status = process.wait(min(1.0, max(0.01, limit - (time.monotonic() - begun))))
                except subprocess.TimeoutExpired:
                    pass
                taken += _take(name, rows, taken, result)
        fields = {"seconds": round(time.monotonic() - begun, 1), "status": _word(status)}
        if status != 0:
            fields["output"] = log.read_text(errors="replace").splitlines()[-TAIL:]
        result.keep(name, **fields)
    print(f"{name}: {fields['status']} after {fields['seconds']:.0f} seconds", flush=True)
    return status


def _take(name: str, rows: Path, taken: int, result: Result) -> int:
    """Take the rows that have come since; how many. The last line may not be whole yet."""
    text = rows.read_text(encoding="utf-8") if rows.exists() else ""
    lines = text[: text.rfind("\n") + 1].splitlines()[taken:]
    if lines:
        result.take(name, lines)
    return len(lines)


def _word(status: int | None) -> str:
    if status is None:
        return "time limit"
    return {0: "ok", ABSENT: "left out"}.get(status, "failed")


@contextmanager
def _process(words: list[str], output: Any, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a new session; all its children are killed at the end."""
    process = subprocess.Popen(
        words, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        yield process
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()


def install(folder: str, wheels: Path) -> None:
    """Put the packages that are missing into a folder: from wheels, where they are given, or from the network.

    Raises:
        SystemExit: they cannot be had; says how to bring them.
    """
    lacking = missing(("torch", "torchvision", "pytorch-lightning"))
    if lacking:
        sys.exit(f"gpu_check: {sys.executable} lacks {', '.join(lacking)}: take another one, make gpu-check PYTHON=...")
    wanted = missing()
    if not wanted:
        return
    print(f"not installed here: {', '.join(wanted)}", flush=True)
    source = ["--no-index", "--find-links", str(wheels)] if wheels.is_dir() else ["--constraint", "constraints.txt"]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    try:
        done = subprocess.run([*pip, "--target", folder, *source, *wanted], cwd=ROOT, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        done = None
    if done is None or done.returncode:
        sys.exit(
            f"gpu_check: not installed, and not to be had here: {', '.join(wanted)}; where there is a network: python "
            f"benchmarks/gpu_check.py --list-wheels > list && pip download --no-deps -d wheels -r list; then bring the "
            f"folder wheels along"
        )


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument(
        "--out", type=Path, help="benchmarks/results/gpu_check.json; with --dry in the temporary folder"
    )
    parser.add_argument("--parts", nargs="+", choices=[part.name for part in PARTS], help="only these")
    parser.add_argument("--dry", action="store_true", help="at a tiny size on the CPU")
    parser.add_argument(
        "--wheels", type=Path, default=ROOT / "wheels", help="folder of wheels, where there is no network"
    )
    parser.add_argument("--list-wheels", action="store_true", help="print the packages that must travel, and end")
    options = parser.parse_args(words)
    if not options.minutes * 60 > 2 * KEPT:
        parser.error(f"--minutes is {options.minutes:g}; must be more than {2 * KEPT / 60:.2g}")
    folder = Path(tempfile.gettempdir()) if options.dry else ROOT / "benchmarks/results"
    options.out = options.out or folder / f"gpu_check{'_dry' if options.dry else ''}.json"
    return options


def main() -> None:
    """Parse, run the parts, print the page."""
    options, begun = parse(), time.monotonic()
    if options.list_wheels:
        print("\n".join(pinned()))
        return
    options.out.parent.mkdir(parents=True, exist_ok=True)
    result = Result(options.out, options.minutes, options.dry)
    parts = [part for part in PARTS if options.parts is None or part.name in options.parts]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    interrupted = False
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        environment = _environment(folder, options.dry)
        try:
            install(folder, options.wheels)
            run(parts, 60 * options.minutes - (time.monotonic() - begun), options.dry, result, environment)
        except KeyboardInterrupt:
            interrupted = True
            for name, part in result.content["parts"].items():
                if part["status"] == "running":
                    result.keep(name, status="interrupted")
    result.content["look_at"] = gpu_page.look_at(result.content)
    result.content["seconds"] = round(time.monotonic() - begun, 1)
    result.write()
    print("\n" + gpu_page.page(result.content) + f"\n\n{options.out}")
    failed = [name for name, part in result.content["parts"].items() if part["status"] == "failed"]
    sys.exit(130 if interrupted else 1 if failed else 0)


def _environment(folder: str, dry: bool) -> dict[str, str]:
    """Of the parts: this checkout first, then what was installed for them."""
    paths = [str(ROOT), str(ROOT / "benchmarks"), *filter(None, [os.environ.get("PYTHONPATH")]), folder]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
    if dry:
        environment |= {"CUDA_VISIBLE_DEVICES": "", "DCNLAB_CACHE_DIR": str(Path(folder, "cache"))}
    return environment


if __name__ == "__main__":
    main()
