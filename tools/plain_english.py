"""Finds words that house style bans in docstrings, messages and comments of dcnlab: `python tools/plain_english.py`."""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BANNED = {
    r"\bgo(?:es)? on\b|\bgoing on\b": "resume, continue",
    r"(?<!here )\bis no (?!longer|larger|smaller|mean|wait)[a-z]": "is not a",
    r"\bof (?:its|our|their) own\b": "say it straight",
    r"\bturned and magnified\b": "rotated and scaled",
    r"\bone (?:pass|turn) over\b|\bpasses over the data\b": "epoch",
    r"\bthe first process\b": "rank 0",
    r"\bwhere there (?:is|are) (?:one|some)\b": "say it straight",
    r"\bno numbers? any more\b": "not finite",
    r"\b(?:told|tells?) (?:\w+ ){0,2}apart\b": "separate, differ",
    r"\bin earnest\b|\bof no worth\b": "say it straight",
}
"""What not to write, and what to write instead."""


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """The docstrings, messages and comments of a file, with their lines."""
    source = path.read_text()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from enumerate(node.value.splitlines(), node.lineno)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def faults(folder: Path) -> list[str]:
    """Each banned wording below a folder, as a line with its place and the better word."""
    return [
        f"{path.relative_to(folder.parent)}:{number}: {match.group()!r}; write: {better}"
        for path in sorted(folder.rglob("*.py"))
        for number, line in texts(path)
        for wording, better in BANNED.items()
        if (match := re.search(wording, line, re.IGNORECASE))
    ]


def main() -> int:
    """Print the faults; the exit status is 1 if there are any."""
    lines = faults(ROOT / "dcnlab")
    print("\n".join(lines), end="\n" if lines else "")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
