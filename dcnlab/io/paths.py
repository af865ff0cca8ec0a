"""Checks file names that come from files: relative, inside their folder, printable."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from dcnlab.io.errors import DataError
from dcnlab.io.text import shown


def check_relative(name: str, source: str) -> None:
    """Refuse a path that would leave the folder it is relative to.

    Raises:
        DataError: it does, or it holds characters that no line can show; one line that begins with `source`.
    """
    # By the path's text, unresolved: a user may link to another disk on purpose.
    path = PurePosixPath(name)
    if not 0 < len(name) <= 1024 or path.is_absolute() or ".." in path.parts or not name.isprintable():
        raise DataError(
            f"{source} names the file {shown(name)}; it must be a relative path that stays inside the folder"
        )


def inside(root: Path, name: str, source: str) -> Path:
    """Join a name to its folder.

    Raises:
        DataError: see `check_relative`.
    """
    check_relative(name, source)
    return root / name
