"""Whole-file writes: readers see the old file or the new one."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def write_whole(path: Path, content: str | bytes | memoryview) -> None:
    """Write a file, text as UTF-8, so that readers see the old file or the new one, never a part.

    Raises:
        OSError: it cannot be written, with the path; the old file stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        if error.errno is not None:
            error.filename = str(path)  # the error of a full disk has none
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Flush a folder's list of files to the disk: else a power cut may undo a rename that others have seen."""
    with contextlib.suppress(OSError):  # some network drives cannot
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
