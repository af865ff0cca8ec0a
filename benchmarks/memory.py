"""Peak memory of one call: torch's count on a GPU, a process's resident set on a CPU."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measure import Work

from dcnlab.training.callbacks.cost import peak_resident_bytes


def peak_bytes(make: Callable[..., Work], args: tuple[Any, ...], device: str) -> int:
    """Most memory that one call holds above what it was given.

    Args:
        make: a module-level function that builds the work from `args`.
        args: picklable.
        device: on cuda torch's own count; on cpu the growth of a fresh process's largest resident set, after a call on
            the smallest arguments that `make` takes with `small=True` has loaded and compiled all code.
    """
    if device == "cuda":
        work = make(*args)
        work()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"  # in the child, what is freed leaves the process at once
    # Children come from a process that has only imported: as fresh as if started anew, without the seconds of imports.
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["torch", "torchvision", "numba", "pytorch_lightning"])
    with processes.Pool(1) as pool:
        return pool.apply(_resident_growth, (make, args))


def _resident_growth(make: Callable[..., Work], args: tuple[Any, ...]) -> int:
    make(*args, small=True)()
    work = make(*args)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from what is resident now
    before = peak_resident_bytes()
    work()
    return peak_resident_bytes() - before
