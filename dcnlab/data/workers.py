"""Number of loader processes of a rank, limited to what the CPUs and the shared memory can serve."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dcnlab.io.machine import cpus

SHARED = Path("/dev/shm")
"""Where loader processes hand over their batches."""
PREFETCH = 2
"""Batches that a loader process holds ready, PyTorch's default."""

_PER_CPU, _ALWAYS = 4, 16
_LARGEST_IMAGE = 2**25
"""Bytes of an image, more than any recipe's; if there is room for such images, none is measured."""
_SAMPLED = 4
_PAGE = 4096
_OVERHEAD = 2**16
"""Bytes of a loader process's own queues and locks."""


def choose(
    wanted: int, dataset: Dataset[Any], indices: Iterable[Any], batch_size: int, ranks: int
) -> tuple[int, str | None]:
    """Choose how many loader processes to start.

    Args:
        wanted: `data.workers`.
        dataset: that they load from.
        indices: of its images, in the order in which they are loaded.
        batch_size: images of a batch.
        ranks: on this machine, each with as many loader processes.

    Returns:
        The number; and a note for the user if it is not the wanted one, else None.
    """
    workers, note = wanted, None
    limit = max(_ALWAYS, _PER_CPU * cpus() // ranks)
    if workers > limit:
        workers, note = limit, f"data.workers is {wanted}; taking {limit}, as this process may use {cpus()} CPUs"
    room = shared_memory()
    if not workers or room is None or room >= needed(workers, batch_size * _LARGEST_IMAGE, ranks):
        return workers, note
    batch = batch_size * _largest(dataset, indices)
    fitting = next((count for count in range(workers, 0, -1) if needed(count, batch, ranks) <= room), 0)
    if fitting == workers:
        return workers, note
    instead = f"taking {fitting}" if fitting else "loading in the training process"
    return fitting, (
        f"data.workers is {wanted}, and {SHARED} has {_size(room)} free of the {_size(needed(workers, batch, ranks))} "
        f"that {workers} loader processes{f' on each of {ranks} ranks' if ranks > 1 else ''} need; {instead} "
        "(docker run --shm-size=8g gives more)"
    )


def needed(workers: int, batch: int, ranks: int) -> int:
    """Bytes of shared memory that the loader processes of all ranks hold at once: batches ready, and two in use."""
    return ranks * ((PREFETCH * workers + 2) * batch + workers * _OVERHEAD)


def shared_memory() -> int | None:
    """Free bytes of /dev/shm; None on systems without it."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        if not os.access(SHARED, os.W_OK):
            return 0
        disk = os.statvfs(SHARED)
    except OSError:
        return 0
    return disk.f_bavail * disk.f_frsize


def tell(note: str) -> None:
    """Show a note to the user."""
    logging.getLogger("dcnlab").warning(f"warning: {note}")


def _largest(dataset: Dataset[Any], indices: Iterable[Any]) -> int:
    """Bytes of the largest of the first items; 0 if they cannot be loaded, which the loader reports later."""
    sizes = [0]
    with torch.random.fork_rng(devices=[]):
        for index in islice(iter(indices), _SAMPLED):
            try:
                sizes.append(_bytes(dataset[index]))
            except Exception:
                break
    return max(sizes)


def _bytes(nest: Any) -> int:
    """Bytes of the tensors and arrays in nested containers, each of whole pages."""
    if isinstance(nest, Tensor | np.ndarray):
        return -(-nest.nbytes // _PAGE) * _PAGE
    if isinstance(nest, dict):
        nest = list(nest.values())
    return sum(map(_bytes, nest)) if isinstance(nest, list | tuple) else 0


def _size(count: int) -> str:
    """Format bytes, such as `64.0 KiB`."""
    value, units = float(count), ["bytes", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        del units[0]
    return f"{count} bytes" if units[0] == "bytes" else f"{value:.1f} {units[0]}"
