"""Finds the packaged experiments and sweeps: next to `dcnlab/` in a checkout, inside the package in a wheel."""

from __future__ import annotations

from pathlib import Path

from dcnlab.io.errors import ConfigError
from dcnlab.io.text import nearest

PACKAGE = Path(__file__).resolve().parents[1]


def folder(name: str) -> Path:
    """The folder `name`: experiments or sweeps.

    Raises:
        FileNotFoundError: neither the package nor the checkout has it.
    """
    for parent in (PACKAGE / "_files", PACKAGE.parent):
        if (parent / name).is_dir():
            return parent / name
    raise FileNotFoundError(
        f"no folder {name} in {PACKAGE / '_files'} or {PACKAGE.parent}: the installation is incomplete"
    )


def names(kind: str) -> list[str]:
    """What `find(kind, ...)` knows without a path: names relative to the packaged folder, without `.yaml`."""
    root = folder(kind)
    return sorted(str(path.relative_to(root).with_suffix("")) for path in root.rglob("*.yaml"))


def find(kind: str, name: str) -> Path:
    """The YAML file that a user calls `name`.

    Args:
        kind: experiments or sweeps.
        name: a path; or a name in the packaged folder, with or without `.yaml` and the folder's own name before it.

    Raises:
        ConfigError: there is none; names the nearest file there is.
    """
    path = Path(name)
    root = folder(kind)
    for candidate in (path, root / name, root / f"{name}.yaml", root.parent / name):
        if candidate.is_file():
            return candidate
    beside = [str(path.parent / other.name) for other in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
    near = nearest(name, [*beside, *names(kind)]) or nearest(path.stem, [Path(known).stem for known in names(kind)])
    hint = f"nearest: {near}" if near else f"packaged {kind}: {', '.join(names(kind)) or 'none'}"
    raise ConfigError(f"no such file: {name}; {hint}")
