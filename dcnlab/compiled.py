"""numba's compiler, with a cache on disk that may fail: what cannot be kept is compiled in memory, with a warning."""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import numba
from numba.core.caching import FunctionCache


class _Cache(FunctionCache):
    """A function's compiled code on disk; on a full disk only in memory."""

    def save_overload(self, sig: object, data: object) -> None:
        try:
            super().save_overload(sig, data)
        except OSError as error:
            self.disable()
            _warn(f"{self.cache_path}: {error.strerror or error}")


def njit(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a function as `numba.njit` does, and cache what it becomes.

    The cache is the folder NUMBA_CACHE_DIR, or else `__pycache__` beside the function's file, or else the user's own
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


@cache
def _warn(reason: str) -> None:
    """Once for each reason, and not once for each function."""
    text = "compiled loops cannot be kept on disk, so every process compiles them again, for some seconds"
    warnings.warn(f"{text}; NUMBA_CACHE_DIR names a folder to keep them in ({reason})", stacklevel=2)
