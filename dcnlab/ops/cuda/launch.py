"""Launching kernels on torch's tensors, streams and devices through CuPy."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any, Protocol

import numpy as np
import torch

from dcnlab.ops.cuda import cubins
from dcnlab.ops.cuda.compile import Prelude, source_text
from dcnlab.ops.cuda.toolkit import import_cupy

Argument = torch.Tensor | np.generic | None
"""A tensor (its address), None (a null pointer), or a numpy scalar, which may be a record: a struct by value."""

DIVISOR = np.dtype([("value", np.int64), ("multiplier", np.uint32), ("shift", np.int32)], align=True)
"""`Divisor` of `common.cuh`, as a field of a kernel's sizes."""

_SCALARS = frozenset(np.dtype(code).type for code in "?bhilqBHILQfd")
_MAX_GRID = (2**31 - 1, 65535, 65535)
_MAX_BLOCK = (1024, 1024, 64)
_MAX_BLOCK_THREADS = 1024
# Above this a kernel has to be told once that it may use more dynamic shared memory.
_DEFAULT_SHARED_BYTES = 48 * 1024


class KernelModule(Protocol):
    """What runs the kernels of one text: a GPU here, the CPU in the tests."""

    def launch(
        self,
        kernel: str,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        args: Sequence[Argument],
        shared_bytes: int = 0,
    ) -> None:
        """Run one kernel; see `CudaModule.launch`."""


class ModuleFactory(Protocol):
    """What an operator asks for its kernels: `module` here, the host's in the tests."""

    def __call__(self, source_file: str, prelude: Prelude) -> KernelModule:
        """The module of one file in `cuda_kernels/` in one variant."""


class Stream:
    """The form in which CuPy takes a foreign stream: anything with `ptr` (its own ExternalStream is deprecated)."""

    __slots__ = ("ptr",)

    def __init__(self, ptr: int) -> None:
        self.ptr = ptr


def record(values: tuple[Any, ...], dtype: np.dtype) -> np.void:
    """A struct to pass by value: a scalar, which costs a launch a tenth of what an array without dimensions costs.

    Args:
        values: of the fields, in order.
        dtype: of the struct, made with `align=True`.
    """
    scalar: Any = np.array(values, dtype=dtype)[()]
    return scalar


def divisor(value: int) -> tuple[int, int, int]:
    """A `Divisor` of `common.cuh`: the multiplication and the shift that divide any n below 2^31.

    Args:
        value: what to divide by; 0, of empty tensors, by which nothing is divided, counts as 1. Beyond 2^31 - 1 indices
            are wide and divided plainly.
    """
    value = max(value, 1)
    if value >= 2**31:
        return value, 0, 0
    shift = (value - 1).bit_length()
    return value, ((1 << 32) * ((1 << shift) - value)) // value + 1, shift


class on_stream:
    """Launches in the block go to one device and stream, which are looked up once, not once a launch.

    Args:
        tensor: on the device of all launches in the block; on a CPU, where tests run kernels, nothing happens.
    """

    __slots__ = ("_before", "_guard", "_index")

    def __init__(self, tensor: torch.Tensor) -> None:
        self._index = tensor.get_device()

    def __enter__(self) -> None:
        if self._index < 0:
            return
        self._before: tuple[int, Stream] | None = getattr(_here, "stream", None)
        self._guard = torch.cuda.device(self._index)
        self._guard.__enter__()
        _here.stream = self._index, Stream(torch.cuda.current_stream(self._index).cuda_stream)

    def __exit__(self, *error: object) -> None:
        if self._index < 0:
            return
        _here.stream = self._before
        self._guard.__exit__(*error)


_here = threading.local()
"""`stream`: the device and the stream of the innermost `on_stream` of this thread."""


@lru_cache(maxsize=4096)
def check_geometry(kernel: str, grid: tuple[int, ...], block: tuple[int, ...]) -> None:
    """Refuse what CUDA would, and an empty grid, which CuPy would round up to one block.

    Raises:
        ValueError: a size is out of range.
    """
    threads = 1
    for what, sizes, limits in (("grid", grid, _MAX_GRID), ("block", block, _MAX_BLOCK)):
        if not 1 <= len(sizes) <= 3:
            raise ValueError(f"{kernel}: {what} {sizes} must have one to three sizes")
        for size, limit in zip(sizes, limits, strict=False):
            if not 1 <= size <= limit:
                raise ValueError(f"{kernel}: {what} {sizes} has a size outside 1 to {limit}")
    for size in block:
        threads *= size
    if threads > _MAX_BLOCK_THREADS:
        raise ValueError(f"{kernel}: block {block} has {threads} threads, more than {_MAX_BLOCK_THREADS}")


def check_value(kernel: str, position: int, value: Any) -> None:
    """Take numpy scalars and records, whose width is plain to see.

    Raises:
        TypeError: a bare Python number, which CuPy would pass as 64 bits whatever the kernel declares; or a record
            whose fields do not lie as C++ puts them.
    """
    kind = type(value)
    if kind in _SCALARS or (kind is np.void and value.dtype.isalignedstruct):
        return
    if isinstance(value, np.void):
        raise TypeError(
            f"{kernel}: argument {position} is a record without C's alignment: use np.dtype(..., align=True)"
        )
    if isinstance(value, np.ndarray) and value.ndim == 0:
        raise TypeError(f"{kernel}: argument {position} is an array without dimensions: pass its scalar, array[()]")
    if isinstance(value, (bool, int, float)):
        raise TypeError(
            f"{kernel}: argument {position} is a bare {type(value).__name__}; pass np.int32, np.int64 or np.float32, "
            f"as the kernel declares it"
        )
    raise TypeError(f"{kernel}: argument {position} is a {type(value).__name__}: not a tensor, numpy scalar or record")


def marshal(kernel: str, args: Sequence[Argument]) -> tuple[list[Any], int]:
    """Turn arguments into what CuPy passes on, and find the device.

    Returns:
        values: an int (64 bits) for each pointer, numpy's own scalars and records.
        device: the index of the tensors' common CUDA device.

    Raises:
        TypeError: an argument of another kind.
        ValueError: tensors on the CPU or on two devices, or none at all.
    """
    values: list[Any] = []
    device = -1
    for position, arg in enumerate(args):
        if type(arg) in _SCALARS:
            values.append(arg)
        elif isinstance(arg, torch.Tensor):
            index = arg.get_device()
            if index < 0:
                raise ValueError(f"{kernel}: argument {position} is a tensor on {arg.device}, not on a CUDA device")
            if device not in (-1, index):
                raise ValueError(f"{kernel}: argument {position} is on cuda:{index}, those before it on cuda:{device}")
            device = index
            values.append(arg.data_ptr())
        elif arg is None:
            values.append(0)  # CuPy's own None would be no argument at all, not a null pointer
        else:
            check_value(kernel, position, arg)
            values.append(arg)
    if device < 0:
        raise ValueError(f"{kernel}: no argument is a tensor, so its device is unknown")
    return values, device


class CudaModule:
    """The kernels of one text, compiled on the first launch on each device, or taken from the cache on disk."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._modules: dict[int, Any] = {}
        self._kernels: dict[tuple[str, int], Any] = {}
        self._shared_limits: dict[tuple[str, int], int] = {}

    def launch(
        self,
        kernel: str,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        args: Sequence[Argument],
        shared_bytes: int = 0,
    ) -> None:
        """Enqueue one kernel on torch's current stream of the tensors' device.

        Args:
            kernel: an `extern "C"` entry point.
            grid: blocks, one to three sizes of at least 1: callers return early when there is nothing to do.
            block: threads, one to three sizes.
            args: in the kernel's order; numbers as numpy scalars of the width the kernel declares.
            shared_bytes: dynamic shared memory.

        Raises:
            ImportError: CuPy is missing.
            TypeError, ValueError: an argument or a size that the kernel could not take.
        """
        check_geometry(kernel, grid, block)
        values, device = marshal(kernel, args)
        held = getattr(_here, "stream", None)
        if held is None or held[0] != device:
            with on_stream(next(arg for arg in args if isinstance(arg, torch.Tensor))):
                self._launch(kernel, grid, block, values, shared_bytes, *_here.stream)
        else:
            self._launch(kernel, grid, block, values, shared_bytes, *held)

    def _launch(
        self,
        kernel: str,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        values: list[Any],
        shared_bytes: int,
        device: int,
        stream: Stream,
    ) -> None:
        """Launch on the current device."""
        key = (kernel, device)
        function = self._kernels.get(key)
        if function is None:
            function = self._kernels[key] = self._load(kernel, device)
        if shared_bytes > _DEFAULT_SHARED_BYTES and shared_bytes > self._shared_limits.get(key, 0):
            _allow_shared_bytes(function, shared_bytes)
            self._shared_limits[key] = shared_bytes
        function(grid, block, values, shared_mem=shared_bytes, stream=stream)

    def _load(self, kernel: str, device: int) -> Any:
        """A kernel on the current device, whose module is loaded on the first call."""
        if device not in self._modules:
            import_cupy()
            self._modules[device] = cubins.load(self._source)
        return self._modules[device].get_function(kernel)


def _allow_shared_bytes(function: Any, size: int) -> None:
    """Let a kernel use more dynamic shared memory than 48 KiB."""
    from cupy_backends.cuda.api import driver

    driver.funcSetAttribute(function.ptr, driver.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, size)


def module(source_file: str, prelude: Prelude) -> CudaModule:
    """The kernels of one file in one variant; the same object each time.

    Args:
        source_file: a file in `cuda_kernels/`.
        prelude: the variant's types and constants, in order.
    """
    return _module(source_file, tuple(prelude.items()))


@cache
def _module(source_file: str, prelude: tuple[tuple[str, str | int], ...]) -> CudaModule:
    return CudaModule(source_text(source_file, dict(prelude)))
