"""Memory that does not suffice, said in one line that names the file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from dcnlab.io.errors import DataError

_SAID = ("can't allocate memory", "out of memory")
"""What torch says, which has no error of one type for it."""


def is_out(error: BaseException) -> bool:
    """Whether an error means that there is not enough memory, of the machine or of a GPU."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in _SAID)


@contextlib.contextmanager
def enough_memory(path: str | Path) -> Iterator[None]:
    """Say of which file it is that the memory does not suffice.

    Raises:
        DataError: it does not; one line that names the file.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out(error):
            raise
        raise DataError(f"{path}: there is not enough memory for what is made of it") from error
