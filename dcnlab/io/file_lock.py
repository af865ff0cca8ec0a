"""A lock between processes, on a file."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from dcnlab.io.errors import ConfigError
from dcnlab.io.files import open_regular


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold a lock on a file; the system releases it however the process ends.

    Raises:
        ConfigError: another process holds it; names the file's folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_regular(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, "ab") as file:
        try:
            # Not flock: loader processes would inherit its lock, and hold it for as long as they outlive this one.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise ConfigError(f"{path.parent} is in use by another dcnlab process") from error
        yield
