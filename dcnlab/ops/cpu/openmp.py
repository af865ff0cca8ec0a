"""Runs compiled loops on torch's threads.

Where torch runs on OpenMP, its team of threads takes the parts, through the entry point that GCC's and LLVM's OpenMP
share. A second set of threads would have to wait: after a product OpenMP's threads keep their processors busy for
a while in case another one follows, and the loops between products took up to twice as long. Without OpenMP a
pool of Python threads serves. numba's own threading layers are no choice: they abort the process when two threads call
them at once (workqueue) or after a fork (GNU OpenMP), and compile several times longer.

A forked process computes on one thread. GNU OpenMP's team stays behind in the parent, and torch's own products, too,
would wait for it for ever.
"""

from __future__ import annotations

import ctypes
import os
from array import array
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import torch

_LOOP = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_PROCESS = os.getpid()
"""The process that imported this module; a forked child has none of its threads."""


def compute_alone_after_forks() -> None:
    """Have each process that is forked from this one compute on one thread, as PyTorch's loader processes do."""

    def compute_alone() -> None:
        if torch.get_num_threads() > 1:
            torch.set_num_threads(1)

    os.register_at_fork(after_in_child=compute_alone)


def parts_of(count: int, smallest: int) -> int:
    """How many parts a loop over `count` is cut into: one a thread, none shorter than `smallest`."""
    return max(1, min(torch.get_num_threads(), count // smallest))


def run(loop: int, numbers: Sequence[int], parts: int) -> None:
    """Run a compiled loop in parts, on as many threads, and wait for all.

    Args:
        loop: its address; it takes a record as `loop_table.py` says.
        numbers: of the record, after the counter and the number of parts.
        parts: at least 1; none writes what another part writes.
    """
    table = array("q", (0, parts, *numbers))
    address, threads = table.buffer_info()[0], min(torch.get_num_threads(), parts)
    team = _team() if threads > 1 else None
    if threads <= 1 or (team is not None and os.getpid() != _PROCESS):  # OpenMP's threads do not survive a fork
        _LOOP(loop)(address)
    elif team is not None:
        team.parallel(loop, address, threads, 0)
    else:
        others = [_pool(os.getpid(), threads - 1).submit(_LOOP(loop), address) for _ in range(threads - 1)]
        _LOOP(loop)(address)
        for other in others:
            other.result()


class _Team:
    """The OpenMP threads of the library that torch is linked with."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.parallel: Callable[[int, int, int, int], None] = library.GOMP_parallel
        """Runs a function with an address on so many threads; a team may be smaller."""
        library.GOMP_parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        library.GOMP_parallel.restype = None


@lru_cache(maxsize=1)
def _team() -> _Team | None:
    if not torch.backends.openmp.is_available():
        return None
    try:
        return _Team(ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so")))
    except (OSError, AttributeError):  # another system's library, or one without the entry point
        return None


@lru_cache(maxsize=4)
def _pool(process: int, workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, thread_name_prefix=f"dcnlab-{process}")
