"""Runs the commands that the pages show: `python tools/run_pages.py [PAGE...]`, by default of all pages.

Each page has an empty folder, in which its commands run in the order printed, on tiny data and with short trainings.
What cannot run here is skipped with its reason. Exit status 1 where a command fails or a reason is of no command.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import page_data
import page_runs
from page_commands import PAGES, ROOT, files_of
from page_plan import Step, plan, stale

Runner = Callable[[Sequence[str], Path], tuple[int, str]]
"""Runs the words of a command in a folder: its exit status and what it prints."""
SECONDS = 900
"""Time for a command to end."""
SHOWN = 8
"""Lines of a failed command that are printed, all but the last to standard error."""


def run(words: Sequence[str], folder: Path) -> tuple[int, str]:
    """Run a command of this checkout in a folder, as a `Runner` does."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "DCNLAB_"))}
    with tempfile.TemporaryDirectory() as programs:
        for name, start in (("dcnlab", f"{sys.executable} -P -m dcnlab"), ("python", sys.executable)):
            (Path(programs) / name).write_text(f'#!/bin/sh\nexec {start} "$@"\n')
            (Path(programs) / name).chmod(0o755)
        environment = {**kept, "PYTHONPATH": str(ROOT), "PATH": f"{programs}:{os.environ['PATH']}"}
        with subprocess.Popen(
            [*words], cwd=folder, env=environment, text=True, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        ) as process:  # fmt: skip
            try:
                output, _ = process.communicate(timeout=SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                return 1, f"has not ended after {SECONDS} seconds"
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)  # Ctrl-C does not reach another session
                raise
    return process.returncode, output


def last_lines(output: str, number: int) -> list[str]:
    """The last lines of what a command printed, without empty ones."""
    return [line for line in output.splitlines() if line.strip()][-number:]


def bring_trained(command: str, folder: Path, shared: Path, runner: Runner) -> str | None:
    """Copy the runs that a command reads into the page's folder, trained once in `shared`; the error, if any."""
    every = list(dict.fromkeys(trained.commands for trained in page_runs.TRAINED.values()))
    for pattern, trained in page_runs.TRAINED.items():
        if not re.search(pattern, command) or (folder / trained.path).exists():
            continue
        place = shared / str(every.index(trained.commands))
        if not place.exists():
            place.mkdir(parents=True)
            for words in trained.commands:
                page_data.write_data(" ".join(words), place)
                status, output = runner(words, place)
                if status != 0:
                    shutil.rmtree(place)
                    return f"{output}\nthe run that it reads: {''.join(last_lines(output, 1))}"
        shutil.copytree(place / trained.source, folder / trained.path)
    return None


def with_newest_run(words: Sequence[str], folder: Path) -> list[str]:
    """The words with the newest run's name in the place of ID, where the page has trained one."""

    def newest(match: re.Match[str]) -> str:
        runs = sorted((folder / match[1]).glob("*/results.json"), key=lambda file: file.stat().st_mtime)
        return str(runs[-1].parent.relative_to(folder)) if runs else match[0]

    return [re.sub(r"(runs/(?!NAME)\w+)/ID\b", newest, word) for word in words]


def interrupt(words: Sequence[str], folder: Path) -> None:
    """Make the run that `dcnlab resume RUN` names one that was killed in its test: without results."""
    if len(words) == 3 and words[1] == "resume":
        (folder / words[2] / "results.json").unlink(missing_ok=True)


def run_step(step: Step, folder: Path, shared: Path, runner: Runner) -> str:
    """Run a command of a page in its folder; "ran", or "FAILED: " and its last line."""
    page_data.write_data(step.command, folder)
    error = bring_trained(step.command, folder, shared, runner)
    words = with_newest_run(step.words, folder)
    interrupt(words, folder)
    status, output = (1, error) if error else runner(words, folder)
    if status == 0:
        return "ran"
    lines = last_lines(output, SHOWN)
    print(*lines[:-1], sep="\n", file=sys.stderr)
    return f"FAILED: {''.join(lines[-1:])}"


def run_page(page: Path, shared: Path, runner: Runner = run) -> bool:
    """Run a page's commands in an empty folder and print a line for each; whether none has failed."""
    results = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, text in files_of(page).items():
            (folder / file).write_text(text)
        for step in plan(page):
            start = time.monotonic()
            result = f"skipped: {step.reason}" if step.reason else run_step(step, folder, shared, runner)
            print(f"{step.page} | {step.command} | {time.monotonic() - start:.1f} s | {result}", flush=True)
            results.append(result)
    return not any(result.startswith("FAILED") for result in results)


def main(arguments: Sequence[str] | None = None, runner: Runner = run) -> int:
    """Run the pages, and give the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pages", nargs="*", type=Path, default=PAGES, metavar="PAGE")
    pages = parser.parse_args(arguments).pages
    for page in pages:
        if not page.is_file():
            parser.error(f"{page} is not a file")
    print("Trainings are shortened by", *page_runs.TRAINER)
    print("of digits by", *page_runs.DIGITS)
    print("of folders by", *page_runs.FOLDERS, *page_runs.PHOTOGRAPHS, *page_runs.UNTRAINED, *page_runs.SLIM)
    print("and sweeps by --limit 1. Data sets in folders are tiny ones of the same layout.\n", flush=True)
    unused = stale()
    for pattern in unused:
        print(f"no page has a command like {pattern!r}: remove it from the tables", file=sys.stderr)
    with tempfile.TemporaryDirectory() as shared:
        results = [run_page(page, Path(shared), runner) for page in pages]
    return 0 if all(results) and not unused else 1


if __name__ == "__main__":
    sys.exit(main())
