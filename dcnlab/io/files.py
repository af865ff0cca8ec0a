"""Opens files to read: regular files only, up to a limit of bytes. No other module opens them."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from dcnlab.io.errors import DataError

TAIL = 2**16
"""Bytes of a log's end that are read."""

_CHUNK = 2**20
_KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def kind_of(mode: int) -> str | None:
    """Name the kind of a file by its mode, such as a pipe; None for a regular file."""
    if stat.S_ISREG(mode):
        return None
    return next((name for is_kind, name in _KINDS if is_kind(mode)), "a special file")


def open_regular(path: str | Path, flags: int = os.O_RDONLY, mode: str = "rb") -> BinaryIO:
    """Open a regular file or a link to one; a pipe is refused at once, where a plain open would wait for a writer.

    Args:
        path: of the file.
        flags: of `os.open`.
        mode: of the file object.

    Raises:
        OSError: there is no such file, or it is a folder, a pipe or a device.
    """
    try:
        descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        raise _not_regular(path, "a pipe, a socket or a device") from error
    except ValueError as error:  # a zero byte, or a character that no file name can hold
        raise OSError(errno.EINVAL, "no path can have this name", os.fspath(path)) from error
    try:
        kind = kind_of(os.fstat(descriptor).st_mode)
        if kind is not None:
            raise _not_regular(path, kind)
        os.set_blocking(descriptor, True)
        return os.fdopen(descriptor, mode)  # type: ignore[return-value]
    except BaseException:
        os.close(descriptor)
        raise


def _not_regular(path: str | Path, kind: str) -> OSError:
    return OSError(errno.EINVAL, f"is {kind}; a regular file is needed", os.fspath(path))


def read_bytes(path: str | Path, most: int) -> bytes:
    """Read a whole file; takes as much memory as it has bytes.

    Args:
        path: of the file.
        most: bytes it may have.

    Raises:
        OSError: see `open_regular`.
        DataError: it is larger, or there is not enough memory for it; the reason, one line.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise too_large(most)
        try:
            parts, left = [file.read(size)], most - size
            while more := file.read(_CHUNK):  # it may grow meanwhile, and files of /proc have no size
                parts.append(more)
                left -= len(more)
                if left < 0:
                    raise too_large(most)
            return parts[0] if len(parts) == 1 else b"".join(parts)
        except MemoryError as error:
            raise DataError(f"its {size} bytes do not fit into the memory that is left") from error


def too_large(most: int) -> DataError:
    """The error for a file larger than `most` bytes."""
    return DataError(f"larger than {most >> 20} MiB, which no such file is")


def read_tail(path: str | Path, most: int = TAIL) -> list[str]:
    """Read the last lines of a log as text, however long it is; of a log without lines its last characters.

    Raises:
        OSError: see `open_regular`.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(0, size - most))
        return file.read(most).decode(errors="replace").splitlines()
