"""The options that several benchmarks share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import measure

_SHARED: dict[str, dict[str, Any]] = {
    "--device": {"choices": ("cpu", "cuda"), "default": "cpu"},
    "--dtype": {"choices": ("float32", "float16", "bfloat16"), "default": "float32"},
    "--modes": {"nargs": "+", "choices": measure.MODES, "default": ["eager"]},
    "--no-memory": {"action": "store_true"},
    "--rows": {"type": Path, "help": "file of JSON lines, to which each row is appended when it comes"},
}


def parser_of(description: str | None, rounds: int, *shared: str) -> argparse.ArgumentParser:
    """A parser with --rounds, --minutes, --out and more of the shared options.

    Args:
        description: the module's docstring.
        rounds: default of --rounds.
        shared: names of further shared options.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds, help="the most turns of a contender")
    parser.add_argument("--minutes", type=measure.minutes, help="time limit; what no time is left for is left out")
    parser.add_argument("--out", type=Path, help="JSON file")
    for name in shared:
        parser.add_argument(name, **_SHARED[name])
    return parser
