"""Runs `pip install` and shows what takes long: `python tools/pip_install.py [--without NAME] [--extras A,B] WORD...`.

Of pip's hundreds of lines it prints the large downloads, the installing, and where pip fails its last lines.
With --without, all of the project's requirements but one are installed first, and then the project alone: pip itself
cannot leave out a requirement.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tomllib
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

LARGE = 20.0
"""Megabytes from which a download is shown."""
LAST = 15
"""Lines of pip that are shown where it fails."""
_SIZE = re.compile(r"^\s*Downloading (?P<file>\S+) \((?P<number>[0-9.]+) (?P<unit>[kMG]?B)\)")
_MEGABYTES = {"B": 1e-6, "kB": 1e-3, "MB": 1.0, "GB": 1e3}


def shown(lines: Iterable[str]) -> Iterator[str]:
    """The lines for a person to see, of those that pip prints."""
    for line in lines:
        match = _SIZE.match(line)
        if match is not None and float(match["number"]) * _MEGABYTES[match["unit"]] >= LARGE:
            name = match["file"].rpartition("/")[2].partition("-")[0]
            yield f"  downloading {name}, {match['number']} {match['unit']}"
        elif line.startswith("Installing collected packages"):
            yield f"  installing {line.count(',') + 1} packages"


def requirements(project: Path, without: str, extras: Iterable[str]) -> list[str]:
    """The requirements of a project and of some of its extras, but for one.

    Args:
        project: its pyproject.toml.
        without: beginning of the name that is left out.
        extras: names of extras.
    """
    stated = tomllib.loads(project.read_text())["project"]
    wanted = [*stated["dependencies"], *(name for extra in extras for name in stated["optional-dependencies"][extra])]
    return [name for name in wanted if not name.startswith(without)]


def run(command: list[str]) -> int:
    """Run pip, print what is to be seen, and return its exit status."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    last: deque[str] = deque(maxlen=LAST)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        assert process.stdout is not None

        def kept() -> Iterator[str]:
            for line in process.stdout or ():
                last.append(line.rstrip())
                yield line

        for line in shown(kept()):
            print(line, flush=True)
    if process.returncode:
        print(*last, "pip failed; the same command continues", sep="\n", file=sys.stderr)
    return process.returncode


def main() -> int:
    """Install, and return pip's exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--without", help="a requirement that is left out")
    parser.add_argument("--extras", default="", help="extras of the project, with commas between them")
    options, words = parser.parse_known_args()
    extras = [name for name in options.extras.split(",") if name]
    pip = [sys.executable, "-m", "pip", "install", *words]
    if options.without is None:
        return run([*pip, "--editable", f".[{','.join(extras)}]" if extras else "."])
    wanted = requirements(Path("pyproject.toml"), options.without, extras)
    return run([*pip, *wanted]) or run([*pip, "--no-deps", "--editable", "."])


if __name__ == "__main__":
    sys.exit(main())
