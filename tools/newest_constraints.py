"""Writes constraints-newest.txt, the newest versions on PyPI that fit together under Python 3.13; installs nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHON = "3.13"
EXTRAS = ("docs", "test")
HEAD = "# The newest versions for Python 3.13, by tools/newest_constraints.py, which `make test-newest` installs\n"


def main() -> None:
    """Resolve the requirements of pyproject.toml for x86-64 Linux, wheels only."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + [text for extra in EXTRAS for text in project["optional-dependencies"][extra]]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        options = ["--dry-run", "--quiet", "--ignore-installed", "--python-version", PYTHON, "--only-binary=:all:"]
        pip = [sys.executable, "-m", "pip", "install", *options, "--target", folder, "--report", str(report)]
        subprocess.run([*pip, *wanted], check=True)
        write(json.loads(report.read_text()))


def write(report: dict) -> None:
    """Write the versions of pip's report."""
    chosen = [item["metadata"] for item in report["install"]]
    lines = sorted((f"{item['name']}=={item['version']}" for item in chosen), key=str.lower)
    (ROOT / "constraints-newest.txt").write_text(HEAD + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
