"""Errors of too little memory, as one line that names the file; and the memory that a training on CPUs keeps."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from pathlib import Path

from dcnlab.io.errors import DataError

_MESSAGES = ("can't allocate memory", "out of memory")
"""In torch's errors, which have no common type."""


_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # in glibc's malloc.h


def keep_freed_memory() -> None:
    """Let glibc reuse the memory of large tensors, up to a gigabyte, in place of giving it back at once.

    Each step of a training needs the same tensors again, and the system clears every page that it hands out: half of
    the time of a segmentation's loss on a CPU. For a process that trains and ends: one that lives on, such as a
    notebook's, would keep what it no longer needs. Does nothing without glibc.
    """
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 1 << 30), (_M_TOP_PAD, 64 << 20)):
            mallopt(option, value)


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
