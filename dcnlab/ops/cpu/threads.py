"""Splitting a loop over torch's number of threads.

A pool of Python threads around ``nogil`` kernels rather than numba's own threading layers: those abort the process
when two threads call them at once (workqueue) or after a fork (GNU OpenMP), and compile several times longer.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise

import torch


@lru_cache(maxsize=4)
def _pool(process: int, workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, thread_name_prefix=f"dcnlab-{process}")


def split(work: Callable[[int, int], None], count: int, smallest: int = 1) -> None:
    """Call ``work(first, last)`` on contiguous parts of ``range(count)``, one a thread, and wait for all.

    Args:
        work: releases the GIL for its main part, and writes nothing that another part writes.
        count: length of the range.
        smallest: no part is shorter than this, so that small loops stay in the calling thread.
    """
    threads = torch.get_num_threads()
    parts = min(threads, count // max(smallest, 1))
    if parts <= 1:
        if count:
            work(0, count)
        return
    edges = [count * part // parts for part in range(parts + 1)]
    pool = _pool(os.getpid(), threads - 1)
    others = [pool.submit(work, first, last) for first, last in pairwise(edges[1:])]
    work(edges[0], edges[1])
    for other in others:
        other.result()
