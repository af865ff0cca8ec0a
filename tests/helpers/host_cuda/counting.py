"""What kernels ask of memory, counted as their own text runs on the CPU: bytes, sectors, lines, float operations.

`CountedKernels` stands in the place of `dcnlab.ops.cuda.launch.module`, as `HostKernels` does. A GPU's caches are not
modelled; three counts of sectors bracket them: of every request by itself (nothing is ever found again), of every block
by itself (a first-level cache that holds all of a block's), and of the whole launch (everything is found again).
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from runner import HostModule

from dcnlab.ops.cuda.kernel_arguments import Argument
from dcnlab.ops.cuda.source import Prelude, source_text

SECTOR = 32
"""Bytes that a GPU's memory moves at least."""
_COUNTS = ("requests", "bytes", "sectors", "lines", "of_blocks", "distinct")
_PARAMETERS = r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?{}\s*\(([^)]*)\)'


@dataclass(frozen=True)
class Access:
    """Loads, or stores, of one array in one launch."""

    requests: int
    """Of a warp: what its threads ask for by one instruction, together."""
    bytes: int
    """Asked for, by all threads."""
    sectors: int
    """Of 32 bytes, summed over the requests."""
    lines: int
    """Of 128 bytes, summed over the requests."""
    of_blocks: int
    """Sectors, each once a block."""
    distinct: int
    """Sectors, each once."""


@dataclass(frozen=True)
class Launch:
    """One launch's counts. An atomic operation is a load and a store."""

    kernel: str
    loads: dict[str, Access]
    """By the kernel's parameter."""
    stores: dict[str, Access]
    shared_loads: Access
    shared_stores: Access
    additions: int
    multiplications: int
    divisions: int
    barriers: int
    """Arrivals of threads."""
    warp_operations: int
    """Threads that take part in shuffles and votes."""

    @property
    def operations(self) -> int:
        """Of floats; a fused multiply-add is two."""
        return self.additions + self.multiplications + self.divisions

    def bytes(self, count: str) -> int:
        """Of global memory, loads and stores, by one of the counts.

        Args:
            count: bytes, sectors, lines, of_blocks or distinct.
        """
        unit = {"bytes": 1, "lines": 128}.get(count, SECTOR)
        return unit * sum(getattr(access, count) for access in (*self.loads.values(), *self.stores.values()))


class CountedModule(HostModule):
    """The kernels of one text, counting build.

    Args:
        source: the whole text, its `real` a `Counted` type if float operations are to be counted.
        launches: where to put the counts of each launch.
    """

    _kind = "counted"

    def __init__(self, source: str, launches: list[Launch]) -> None:
        super().__init__(source, sanitize=False)
        self._source, self._launches = source, launches
        self._library = ctypes.CDLL(str(self._built))

    def launch(
        self,
        kernel: str,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        args: Sequence[Argument],
        shared_bytes: int = 0,
    ) -> None:
        """As `HostModule.launch`, counted."""
        names = self._pointers(kernel, args)
        tensors = [arg for position, arg in enumerate(args) if position in names and isinstance(arg, torch.Tensor)]
        spans = [(t.data_ptr(), t.nbytes, t.data_ptr() - t.untyped_storage().data_ptr()) for t in tensors]
        ranges = np.array(spans, np.uint64).reshape(-1, 3)
        self._library.dcnlab_watch(ranges.ctypes.data_as(ctypes.c_void_p), ctypes.c_uint64(len(ranges)))
        super().launch(kernel, grid, block, args, shared_bytes)
        counts, others = np.zeros((len(ranges) + 1, 2, len(_COUNTS)), np.uint64), np.zeros(5, np.uint64)
        self._library.dcnlab_counted(*(a.ctypes.data_as(ctypes.c_void_p) for a in (counts, others)))
        loads, stores = ([Access(*map(int, row)) for row in counts[:, index]] for index in (0, 1))
        of = tuple(names.values())
        used = [{n: a for n, a in zip(of, accesses, strict=False) if a.requests} for accesses in (loads, stores)]
        self._launches.append(Launch(kernel, *used, loads[-1], stores[-1], *map(int, others)))

    def _pointers(self, kernel: str, args: Sequence[Argument]) -> dict[int, str]:
        """Parameter names of the tensors that hold something, by position."""
        found = re.search(_PARAMETERS.format(kernel), self._source)
        if found is None:
            raise ValueError(f"the text has no kernel {kernel}")
        names = [parameter.split()[-1].lstrip("*") for parameter in found[1].split(",")]
        return {i: names[i] for i, arg in enumerate(args) if isinstance(arg, torch.Tensor) and arg.numel()}


class CountedKernels:
    """Gives an operator counting modules, and lists what they counted."""

    def __init__(self) -> None:
        self.launches: list[Launch] = []

    def __call__(self, source_file: str, prelude: Prelude) -> CountedModule:
        """The module of one file in `cuda_kernels/` in one variant."""
        counted = dict(prelude) | {"real": f"dcnlab_host::Counted<{prelude['real']}>"}
        return CountedModule(source_text(source_file, counted), self.launches)
