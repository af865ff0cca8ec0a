"""Errors of too little memory, as one line that names the file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from dcnlab.io.errors import DataError

_MESSAGES = ("can't allocate memory", "out of memory")
"""In torch's errors, which have no common type."""


def is_out(error: BaseException) -> bool:
    """Whether an error means that there is not enough memory, of the machine or of a GPU."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in _MESSAGES)


@contextlib.contextmanager
def enough_memory(path: str | Path) -> Iterator[None]:
    """Turn errors of too little memory into one that names the file.

    Raises:
        DataError: it does not; one line that names the file.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out(error):
            raise
        raise DataError(f"{path}: there is not enough memory for what is made of it") from error
