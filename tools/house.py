"""Prints the rooms of dcnlab, their floors and the imports between them: `python tools/house.py`."""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "dcnlab"
FLOORS = [
    ["ops", "io"],
    ["nn", "config"],
    ["data", "metrics", "surgery"],
    ["models", "score"],
    ["tasks"],
    ["training"],
    ["ablations"],
    ["cli"],
    ["__main__"],
]
"""The rooms, from the ground up. A room imports rooms of lower floors only; no other file or folder is at the top."""


def modules() -> dict[str, Path]:
    """Every module of the package, by its dotted name."""
    paths = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        paths[name] = path
    return paths


def imports(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The package's own modules that a file imports, at its top or within a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            whole = [f"{node.module}.{name.name}" for name in node.names]
            names = [name if name in known else node.module for name in whole]
        else:
            continue
        yield from (name for name in names if name in known and name != PACKAGE)


def room(module: str) -> str:
    """The room of a module: the first name below the package."""
    return module.split(".")[1] if "." in module else ""


def arrows(known: dict[str, Path]) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """The imports between modules of different rooms, by pairs of rooms."""
    pairs = defaultdict(list)
    for module, path in known.items():
        for other in sorted(set(imports(path, known))):
            if room(module) != room(other) and room(module):
                pairs[room(module), room(other)].append((module, other))
    return dict(pairs)


def circle(known: dict[str, Path]) -> list[str]:
    """Modules that import each other in a circle, whether at their tops or within functions; empty where none do."""
    ways = {module: set(imports(path, known)) - {module} for module, path in known.items()}
    done: set[str] = set()

    def walk(module: str, trail: list[str]) -> list[str]:
        if module in trail:
            return [*trail[trail.index(module) :], module]
        if module in done:
            return []
        for other in sorted(ways[module]):
            if cycle := walk(other, [*trail, module]):
                return cycle
        done.add(module)
        return []

    return next((cycle for module in ways if (cycle := walk(module, []))), [])


def faults(known: dict[str, Path]) -> list[str]:
    """What breaks the plan, a line each."""
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    rooms = {room(module) for module in known} - {""}
    lines = [f"{name} is no room of the plan" for name in sorted(rooms - set(floor))]
    lines += [f"room {name} is missing" for name in sorted(set(floor) - rooms)]
    for (one, other), ways in sorted(arrows(known).items()):
        if one in floor and other in floor and floor[other] >= floor[one]:
            lines += [f"{module} imports {name}, which is not below it" for module, name in ways]
    if round_trip := circle(known):
        lines.append(f"a circle of imports: {' -> '.join(round_trip)}")
    return lines


def main() -> int:
    """Print the house; the exit status is 1 where something breaks the plan."""
    known = modules()
    ways = arrows(known)
    for number in range(len(FLOORS), 0, -1):
        for name in FLOORS[number - 1]:
            count = sum(room(module) == name for module in known)
            below = sorted(other for one, other in ways if one == name)
            print(f"{number}  {name:<10} {count:>3} modules   imports {', '.join(below) or 'nothing of ours'}")
    print(f"{sum(map(len, FLOORS))} rooms, {len(FLOORS)} floors, {len(ways)} arrows")
    lines = faults(known)
    for line in lines:
        print(line, file=sys.stderr)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
