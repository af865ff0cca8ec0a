"""Names that come from files: kept inside their folder, and shown on one line."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from dcnlab.data.errors import DataError


def check_relative(name: str, source: str) -> None:
    """Refuse a path that would leave the folder it is relative to.

    Raises:
        DataError: it does, or it holds characters that no line can show; one line that begins with `source`.
    """
    # By the path's text, not by what it resolves to: a link to another disk is the user's own doing.
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


def shown(value: object) -> str:
    """Write a value for an error: on one line, however long it is."""
    try:
        text = repr(value)
    except RecursionError:
        return f"a {type(value).__name__} nested without end"
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"


def one_line(error: BaseException) -> str:
    """The message of an exception, its lines joined, at a length that a person reads."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, MemoryError):
        text = "there is not enough memory for it"
    return text if len(text) <= 500 else f"{text[:480]}... ({len(text)} characters)"
