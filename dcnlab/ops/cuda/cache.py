"""The user's cache folder; if it cannot be used, one warning is printed and the run continues."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

VARIABLE = "DCNLAB_CACHE_DIR"
"""Environment variable that names the folder."""

_failures: list[str] = []
"""Why this process could not cache files; only the first reason becomes a warning."""


def folder() -> Path:
    """Where files are kept: DCNLAB_CACHE_DIR, or else `dcnlab` in XDG_CACHE_HOME or in ~/.cache.

    Raises:
        RuntimeError: no variable names a folder, and the user has no home.
    """
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named).expanduser()
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "dcnlab"


def read(name: str) -> bytes | None:
    """The content of a file in the folder; None: missing or unreadable.

    Args:
        name: relative to the folder.
    """
    try:
        return (folder() / name).read_bytes()
    except (OSError, RuntimeError):
        return None  # where the folder fails, `write` says so


def write(name: str, content: bytes) -> bool:
    """Keep a file, whole or not at all: several processes may write the same one at once.

    Args:
        name: relative to the folder; its parent folders are made.
        content: of the file.

    Returns:
        Whether it was kept; the first failure of a process is a warning.
    """
    part = None
    try:
        path = folder() / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            part = file.name
            file.write(content)
        os.replace(part, path)
    except (OSError, RuntimeError) as error:
        if part is not None:
            with contextlib.suppress(OSError):
                os.unlink(part)
        _failed(error)
        return False
    return True


def _failed(error: OSError | RuntimeError) -> None:
    """Warn once in a process, however many kernels there are."""
    try:
        where = str(folder())
    except RuntimeError:
        where = "no home"
    _failures.append(f"{where}: {getattr(error, 'strerror', None) or error}")
    if len(_failures) == 1:
        text = "compiled CUDA kernels cannot be kept on disk, so every process compiles them again, for some seconds"
        warnings.warn(f"{text}; {VARIABLE} names a folder to keep them in ({_failures[0]})", stacklevel=2)


@contextlib.contextmanager
def of_cupy() -> Iterator[None]:
    """Import CuPy in this block: it then makes its cache folder, and raises a bare OSError where it cannot.

    Where its folder cannot be made it gets one that lasts as long as the import. Our kernels do not go through it.
    """
    given = os.environ.get("CUPY_CACHE_DIR")
    if "cupy" in sys.modules or _can_be_made(given or os.path.expanduser("~/.cupy/kernel_cache")):
        yield
        return
    with contextlib.ExitStack() as stack:
        try:
            substitute = tempfile.mkdtemp()
            stack.callback(shutil.rmtree, substitute, ignore_errors=True)
        except OSError:
            substitute = os.sep  # a folder that is there is enough
        os.environ["CUPY_CACHE_DIR"] = substitute
        try:
            yield
        finally:
            del os.environ["CUPY_CACHE_DIR"]
            if given is not None:
                os.environ["CUPY_CACHE_DIR"] = given


def _can_be_made(path: str) -> bool:
    try:
        os.makedirs(path, exist_ok=True)
    except OSError:
        return False
    return True
