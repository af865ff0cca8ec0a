"""Keep what was measured, and fill the tables of the pages from it.

    python tools/evidence.py keep runs/NAME ...                   copy finished runs, without weights, into evidence/
    python tools/evidence.py fill README.md docs/fidelity.md      run the commands in the pages, put their output below
    python tools/evidence.py fill --check README.md ...           exit status 1 where a page is not what they print
    python tools/evidence.py fill --only "python benchmarks/" ... only the commands that begin so

A page holds `<!-- $ COMMAND -->`, then what it prints, then `<!-- end -->`; of all commands, only dcnlab's and those
of benchmarks/ and tools/ are run. A sweep without a folder in evidence/ has `NOT_KEPT` in place of a table.
"""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from dcnlab.training.run_folder import RunFolder

HERE = Path(__file__).resolve().parent.parent
KEPT = ("config.yaml", "results.json", "dilation.json", "robustness.json")
BLOCK = re.compile(r"(<!-- \$ (?P<command>.+?) -->\n).*?(?P<end><!-- end -->)", re.DOTALL)
NOT_KEPT = "No run of it is kept yet."


def keep(folders: list[Path]) -> list[Path]:
    """Copy the finished runs below some folders to evidence/NAME/ID; the copies do not name where the runs were."""
    import yaml

    from dcnlab.training import run_search

    kept = []
    for folder in run_search.discover(folders):
        results = RunFolder(folder).read_results()
        if results is None or results["status"] != "finished":
            continue
        target = HERE / "evidence" / folder.parent.name / folder.name
        target.mkdir(parents=True, exist_ok=True)
        for name in KEPT:
            if (folder / name).is_file():
                text = (folder / name).read_text()
                if name == "config.yaml":
                    text = yaml.safe_dump(yaml.safe_load(text) | {"out": "evidence"}, sort_keys=False)
                (target / name).write_text(text)
        for name in ("test_images.npz", "dilation_boxes.npz"):
            if (folder / name).is_file():
                shutil.copyfile(folder / name, target / name)
        shutil.rmtree(RunFolder(target).tests, ignore_errors=True)
        if RunFolder(folder).tests.is_dir():
            shutil.copytree(RunFolder(folder).tests, RunFolder(target).tests)
        kept.append(target)
    return kept


def lacks_runs(command: str) -> bool:
    """Whether a command tabulates kept runs of a sweep that has none."""
    words = shlex.split(command)
    if words[:2] != ["dcnlab", "table"] or "evidence" not in words:
        return False
    return (HERE / "sweeps" / f"{words[2]}.yaml").is_file() and not (HERE / "evidence" / words[2]).is_dir()


def output_of(command: str) -> str:
    """What a command of a page prints, without the white space around it."""
    if lacks_runs(command):
        return NOT_KEPT
    words = shlex.split(command)
    if words[0] == "dcnlab":
        words = [sys.executable, "-m", *words]
    elif words[:1] == ["python"] and words[1].startswith(("benchmarks/", "tools/")):
        words[0] = sys.executable
    else:
        sys.exit(f"{command}: only dcnlab, python benchmarks/... and python tools/... are run")
    done = subprocess.run(words, cwd=HERE, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{command}: {done.stderr.strip()}")
    return done.stdout.strip()


def fill(page: Path, check: bool = False, only: str = "", output: Callable[[str], str] = output_of) -> bool:
    """Put the output of each command of a page below it; whether the page changed, or with `check` would.

    Args:
        page: markdown with blocks.
        check: leave the page as it is.
        only: how the commands begin that are run; the others' blocks stay.
        output: runs a command, and gives what it prints.
    """
    from dcnlab.io.atomic import write_whole

    def filled(found: re.Match[str]) -> str:
        asked = found["command"].startswith(only)
        return f"{found[1]}{output(found['command'])}\n{found['end']}" if asked else found[0]

    before = page.read_text()
    after = BLOCK.sub(filled, before)
    if not check and after != before:
        write_whole(page, after)
    return after != before


def main() -> None:
    """Parse and act."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    keeping = actions.add_parser("keep")
    keeping.add_argument("folders", nargs="+", type=Path)
    filling = actions.add_parser("fill")
    filling.add_argument("pages", nargs="+", type=Path)
    filling.add_argument("--check", action="store_true")
    filling.add_argument("--only", default="", metavar="BEGINNING")
    options = parser.parse_args()
    if options.action == "keep":
        for folder in keep(options.folders):
            print(folder.relative_to(HERE))
        return
    changed = [page for page in options.pages if fill(page, options.check, options.only)]
    for page in changed:
        print(f"{page} {'is not what its commands print' if options.check else 'filled anew'}")
    sys.exit(1 if options.check and changed else 0)


if __name__ == "__main__":
    main()
