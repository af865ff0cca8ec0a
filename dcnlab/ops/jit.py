"""numba's njit with a cache on disk; where the cache fails, it compiles in memory and warns once."""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba import types
from numba.core.caching import FunctionCache
from numba.core.ccallback import CFunc


class _Cache(FunctionCache):
    """A function's compiled code on disk; where that cannot be read or written, only in memory."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        # numba would look at the function's own file alone, and not at the other files whose functions it inlines.
        files = sorted(Path(function.__code__.co_filename).parent.glob("*.py"))
        stats = ((file.name, file.stat()) for file in files)
        self._cache_file._source_stamp = tuple((name, stat.st_mtime, stat.st_size) for name, stat in stats)

    def load_overload(self, sig: object, target_context: object) -> object:
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:  # a file damaged by a crash, or another user's: reading it may raise anything
            try:
                self._cache_file.flush()  # begins anew, where it can
            except OSError:
                self.disable()
                why = getattr(error, "strerror", None) or type(error).__name__
                _warn(f"{self.cache_path} holds files that can be neither read nor replaced: {why}")
            return None

    def save_overload(self, sig: object, data: object) -> None:
        try:
            super().save_overload(sig, data)
        except OSError as error:
            self.disable()
            _warn(f"{self.cache_path}: {error.strerror or error}")


def njit(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a function as `numba.njit` does, and cache what it becomes.

    The cache is the folder NUMBA_CACHE_DIR, or else `__pycache__` next to the function's file, or else the user's own
    cache folder, whichever can be written.

    Args:
        options: of `numba.njit`, without `cache`.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        compiled = numba.njit(**options)(function)
        try:
            compiled._cache = _Cache(function)
        except RuntimeError as error:
            if "no locator available" not in str(error):
                raise
            _warn("no folder for them can be written")
        return compiled

    return decorate


def callback(function: Callable[[Any], None]) -> int:
    """Compile a function of one address, `void(void*)`, which threads may call that know nothing of Python; cached too.

    Returns:
        Its own address, for as long as the process lives.
    """
    compiled: Any = CFunc(function, ((types.voidptr,), types.void), locals={}, options={"error_model": "numpy"})
    with contextlib.suppress(RuntimeError):  # no folder can be written, as the loops that it calls have said
        compiled._cache = _Cache(function)
    compiled.compile()
    _callbacks.append(compiled)
    return int(compiled.address)


_callbacks: list[Any] = []
"""The code goes when its object does."""


@cache
def _warn(reason: str) -> None:
    """Once for each reason, and not once for each function."""
    text = "compiled loops cannot be kept on disk, so every process compiles them again, for some seconds"
    warnings.warn(f"{text}; NUMBA_CACHE_DIR names a folder to keep them in ({reason})", stacklevel=2)
