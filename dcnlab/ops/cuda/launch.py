"""Launches kernels on torch's tensors, streams and devices through CuPy."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cache
from typing import Any, Protocol

import torch

from dcnlab.ops.cuda import cubins
from dcnlab.ops.cuda.kernel_arguments import Argument, check_geometry, marshal
from dcnlab.ops.cuda.source import Prelude, source_text
from dcnlab.ops.cuda.toolkit import import_cupy

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
