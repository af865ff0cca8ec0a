"""Splitting a loop over torch's own threads.

Where torch runs on OpenMP, its team of threads takes the parts, through the entry point that GCC's and LLVM's OpenMP
share. Threads of our own would have to wait for it: after a product OpenMP's threads keep their processors busy for
a while in case another one follows, and the loops between products took up to twice as long. Without OpenMP a
pool of Python threads serves. numba's own threading layers are no choice: they abort the process when two threads call
them at once (workqueue) or after a fork (GNU OpenMP), and compile several times longer.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import torch

_BODY = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def split(work: Callable[[int, int], None], count: int, smallest: int = 1) -> None:
    """Call ``work(first, last)`` on contiguous parts of ``range(count)``, one a thread, and wait for all.

    Args:
        work: releases the GIL for its main part, and writes nothing that another part writes.
        count: length of the range.
        smallest: no part is shorter than this, so that small loops stay in the calling thread.
    """
    parts = min(torch.get_num_threads(), count // max(smallest, 1))
    team = _team() if parts > 1 else None
    if parts <= 1 or (team is not None and team.process != os.getpid()):  # OpenMP's threads do not survive a fork
        if count:
            work(0, count)
        return
    edges = list(pairwise(count * part // parts for part in range(parts + 1)))
    if team is not None:
        team.run(lambda part: work(*edges[part]), parts)
        return
    others = [_pool(os.getpid(), parts - 1).submit(work, *edge) for edge in edges[1:]]
    work(*edges[0])
    for other in others:
        other.result()


class _Team:
    """The OpenMP threads of the library that torch is linked with."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.process = os.getpid()
        self._parallel, self._number, self._size = (
            library.GOMP_parallel,
            library.omp_get_thread_num,
            library.omp_get_num_threads,
        )
        self._parallel.argtypes = [_BODY, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        self._parallel.restype = None

    def run(self, work: Callable[[int], None], parts: int) -> None:
        """Call ``work(part)`` for each part, and wait for all; the first error is raised then."""
        errors: list[BaseException] = []

        def body(_: object) -> None:
            try:
                for part in range(self._number(), parts, self._size()):  # a team may be smaller than wanted
                    work(part)
            except BaseException as error:  # a C function calls this: nothing may leave it
                errors.append(error)

        self._parallel(_BODY(body), None, parts, 0)
        if errors:
            raise errors[0]


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
