"""The commands, Python blocks and experiment files that the pages show; the tests and run_pages.py read them here."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAMS = ("dcnlab", "make", "pip", "python", "docker", "apptainer", "conda", "wandb", "tensorboard")
"""Programs whose commands are found within the text too, between backticks."""
_FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_INDENTED = re.compile(r"(?:^    [^\n]*\n)+", re.MULTILINE)
_INLINE = re.compile(rf"`((?:{'|'.join(PROGRAMS)}) [^`]+)`")
_SEAMS = re.compile(r"<!-- seams -->.*?<!-- end of seams -->", re.DOTALL)
_PRINTED = re.compile(r"<!-- \$ .+? -->.*?<!-- end -->", re.DOTALL)
_COMMAND = re.compile(r"[a-z]+ [^=\s]")
_INCOMPLETE = re.compile(r"\.\.\.|\bRUN\b|=N\b|\bEXPERIMENT\b|^(?:dcnlab|wandb) [a-z]+$")
"""Commands within the text that only speak of a command."""


def text_of(page: Path) -> str:
    """A page's text without its parts that are generated from tests."""
    return _SEAMS.sub("", page.read_text())


def python_of(page: Path) -> list[str]:
    """The Python blocks of a page."""
    return [code for language, code in _FENCED.findall(text_of(page)) if language == "python"]


def files_of(page: Path) -> dict[str, str]:
    """The experiment and sweep files of a page, by their names: blocks of YAML that begin with `# NAME.yaml`."""
    return dict(re.findall(r"^```yaml\n# (\w+\.yaml)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE))


def _blank(pattern: re.Pattern[str], text: str) -> str:
    """The text with spaces in the place of what a pattern matches, so that positions stay."""
    return pattern.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)


def lines_of(page: Path) -> list[str]:
    """The command lines of a page in the order printed: those of its blocks, and those within the text."""
    text = _blank(_PRINTED, text_of(page))
    places: list[tuple[int, str]] = []
    for block in _FENCED.finditer(text):
        if block[1] in ("", "bash"):
            places += [(block.start(), line) for line in block[2].splitlines() if line.strip()]
    prose = _blank(_FENCED, text)
    for block in _INDENTED.finditer(prose):
        lines = [line[4:] for line in block[0].splitlines()]
        places += [(block.start(), line) for line in lines if _COMMAND.match(line)]
    for match in _INLINE.finditer(_blank(_INDENTED, prose)):
        if not _INCOMPLETE.search(match[1]):
            places.append((match.start(), match[1]))
    return [line for _, line in sorted(places, key=lambda place: place[0])]


def commands_of(page: Path) -> list[list[str]]:
    """The words of each command of a page, in the order printed."""
    return [shlex.split(line, comments=True) for line in lines_of(page)]
