"""Installs the stand-in driver (`driver.c`): CuPy compiles, loads and launches as on a machine with GPUs.

`install` changes this process for good: it patches CuPy's runtime in memory, and lets CPU tensors pass for tensors on
CUDA device 0. So it runs in a process made for it: `stand_in` gives a pool of one, whose functions the tests submit.
Each launch's parameter bytes are compared with what was passed, and its kernel runs through the g++ harness; or it is
only counted.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import platform
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cubin
import numpy as np
import runner
import torch

from dcnlab.ops import registry
from dcnlab.ops.cuda.kernel_arguments import Argument
from dcnlab.ops.cuda.launch import CudaModule

STREAM = 0xABC0
"""The address of torch's current stream."""

_SOURCE = Path(__file__).with_name("driver.c")
_PATCHED = (
    *("cudaGetDevice", "cudaSetDevice", "cudaGetDeviceCount", "cudaDeviceGetAttribute", "cudaMemGetInfo"),
    *("cudaRuntimeGetVersion", "cudaDriverGetVersion"),
)
_JUMP = b"\xff\x25\0\0\0\0"  # to the address that follows
_EVERY_RIGHT = 7
_launch = CudaModule.launch


@dataclass(frozen=True)
class Launched:
    """A launch as the driver saw it."""

    kernel: str
    grid: tuple[int, ...]
    block: tuple[int, ...]
    shared_bytes: int
    device: int
    stream: int


@dataclass
class Driver:
    """The stand-in of this process, and what it saw."""

    library: ctypes.CDLL
    launches: list[Launched] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """What was wrong with a launch: a parameter's bytes, a grid, or the harness's own report."""
    modules: list[dict[str, list[int]]] = field(default_factory=list)
    """Of each module that was loaded, its kernels' parameter sizes."""
    guards: int = 0
    """How often torch's device guard was entered."""
    streams: int = 0
    """How often torch's current stream was asked for."""
    _functions: list[tuple[int, str]] = field(default_factory=list)
    _callbacks: list[Any] = field(default_factory=list)
    _current: tuple[str, str, Sequence[Argument]] | None = None

    @property
    def count(self) -> int:
        """Launches so far, also of those that were only counted."""
        return ctypes.c_long.in_dll(self.library, "standin_launches").value

    @property
    def device(self) -> ctypes.c_int:
        """The runtime's current device."""
        return ctypes.c_int.in_dll(self.library, "standin_device")

    def executes(self, on: bool) -> None:
        """Whether launches are checked and run, or only counted, which costs no time in Python."""
        address = ctypes.cast(self._callbacks[0], ctypes.c_void_p).value if on else None
        ctypes.c_void_p.in_dll(self.library, "standin_launch").value = address
        CudaModule.launch = self._watched if on else _launch  # type: ignore[method-assign]

    @property
    def _watched(self) -> Callable[..., None]:
        """`CudaModule.launch`, and a note of what it was given, for comparison with what comes."""

        def launch(module: CudaModule, kernel: str, grid: Any, block: Any, args: Any, shared_bytes: int = 0) -> None:
            self._current = (module._source, kernel, args)
            _launch(module, kernel, grid, block, args, shared_bytes)

        return launch

    def hears(self) -> None:
        """Let the library call Python."""
        long, text, address = ctypes.c_long, ctypes.c_char_p, ctypes.c_void_p
        pointers, sizes = ctypes.POINTER(address), ctypes.POINTER(ctypes.c_uint)
        on_launch = ctypes.CFUNCTYPE(ctypes.c_int, long, sizes, ctypes.c_uint, address, pointers)(self._on_launch)
        on_load = ctypes.CFUNCTYPE(long, address)(self._on_load)
        on_function = ctypes.CFUNCTYPE(long, long, text)(self._on_function)
        self._callbacks = [on_launch, on_load, on_function]
        for name, callback in (("load", on_load), ("function", on_function)):
            slot = address.in_dll(self.library, f"standin_{name}")
            slot.value = ctypes.cast(callback, address).value

    def _on_load(self, image: int) -> int:
        self.modules.append(cubin.parameter_sizes(cubin.image_at(image)))
        return len(self.modules)

    def _on_function(self, module: int, name: bytes) -> int:
        self._functions.append((module - 1, name.decode()))
        return len(self._functions)

    def _on_launch(self, function: int, sizes: Any, shared: int, stream: int | None, parameters: Any) -> int:
        try:
            module, kernel = self._functions[function - 1]
            self._run(kernel, self.modules[module][kernel], tuple(sizes[:6]), shared, stream or 0, parameters)
        except Exception as error:  # it would be lost in ctypes
            self.problems.append(repr(error))
        return 0

    def _run(
        self, kernel: str, widths: list[int], sizes: tuple[int, ...], shared: int, stream: int, parameters: Any
    ) -> None:
        assert self._current is not None
        source, name, args = self._current
        self.launches.append(Launched(kernel, sizes[:3], sizes[3:], shared, self.device.value, stream))
        if kernel != name or len(widths) != len(args):
            self.problems.append(f"{kernel} takes {len(widths)} parameters; {name} was given {len(args)}")
            return
        records, alive = [], []
        for number, (arg, width) in enumerate(zip(args, widths, strict=True)):
            passed = ctypes.string_at(parameters[number], width)
            code, element, expected = runner._encode(arg)
            if code == "p":
                expected = struct.pack("<Q", 0 if arg is None else arg.data_ptr())
            if not _equal(passed, expected, arg):
                self.problems.append(f"{kernel}: parameter {number} is {passed.hex()}, expected {expected.hex()}")
            alive.append(ctypes.create_string_buffer(passed, width))
            records.append(struct.pack("<QQii", ctypes.addressof(alive[-1]), width, ord(code), element))
        table = ctypes.create_string_buffer(b"".join(records))
        header = struct.pack("<6IQiIQ", *sizes, shared, 0, len(args), 0)
        run = runner._load(runner.build(source, "plain"))
        problem = run(kernel.encode(), ctypes.create_string_buffer(header + struct.pack("<Q", ctypes.addressof(table))))
        if problem:
            self.problems.append(f"{kernel}: {problem.decode()}")


def _equal(passed: bytes, expected: bytes, arg: Argument) -> bool:
    """Whether a parameter's bytes are those of the argument; what lies between a record's fields may be anything."""
    if not isinstance(arg, np.void):
        return passed == expected
    spans = list(_spans(arg.dtype))
    return len(passed) == len(expected) and all(passed[a:b] == expected[a:b] for a, b in spans)


def _spans(dtype: np.dtype, base: int = 0) -> Iterator[tuple[int, int]]:
    """First and last byte of each number in a record."""
    for field_type, offset in (value[:2] for value in (dtype.fields or {}).values()):
        if field_type.fields:
            yield from _spans(field_type, base + offset)
        else:
            yield base + offset, base + offset + field_type.itemsize


_installed: list[Driver] = []


def installed() -> Driver:
    """The driver of this process; `install` has run."""
    return _installed[0]


def problem() -> str | None:
    """Why no stand-in can be had on this machine: one line, or None."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "the stand-in driver patches CuPy on x86-64 Linux only"
    if find_spec("cupy") is None:
        return "no CuPy to put a stand-in driver under"
    if shutil.which("gcc") is None or shutil.which("nm") is None:
        return "no gcc and nm to build the stand-in driver"
    return runner.compiler_problem(sanitize=False)


def stand_in() -> ProcessPoolExecutor:
    """A pool of one process with the stand-in installed: submit functions of modules, and get what they return."""
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), initializer=install)


def install() -> Driver:
    """Put the stand-in under CuPy and torch in this process."""
    torch.set_num_threads(1)
    library = ctypes.CDLL(str(_built()), mode=ctypes.RTLD_GLOBAL)
    driver = Driver(library)
    driver.hears()
    _installed.append(driver)
    _patch_runtime(library)
    _patch_torch(driver)
    driver.executes(True)
    return driver


def let_public_functions_take_cuda() -> None:
    """Let the operators compute CPU tensors by their CUDA path, with the precision that products have on CUDA."""
    registry.device_of = lambda tensor: "cuda"


def _built() -> Path:
    """The library, built in the harness's folder; libcuda's name inside makes CuPy find it already loaded."""
    flags = ("-O1", "-shared", "-fPIC", "-w", "-Wl,-soname,libcuda.so.1")
    return runner._cached(
        "libcuda.so.1", runner._compiler(), flags, _SOURCE.read_text(), lambda out: ["-x", "c", "-", "-o", str(out)]
    )


def _patch_runtime(library: ctypes.CDLL) -> None:
    """Let the runtime's functions in CuPy's own library jump to the stand-in's."""
    import cupy_backends.cuda.api.runtime as runtime

    path = runtime.__file__
    maps = Path("/proc/self/maps").read_text().splitlines()
    base = next(int(line.split("-")[0], 16) for line in maps if line.endswith(path))
    listed = subprocess.run(["nm", path], capture_output=True, text=True, check=True).stdout
    symbols = {words[2]: int(words[0], 16) for line in listed.splitlines() if len(words := line.split()) == 3}
    protect = ctypes.CDLL(None).mprotect
    protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for name in _PATCHED:
        address = base + symbols[name]
        if protect(address & ~4095, 8192, _EVERY_RIGHT):
            raise OSError(f"the memory of {name} cannot be written")
        target = ctypes.cast(getattr(library, f"standin_{name}"), ctypes.c_void_p).value
        ctypes.memmove(address, _JUMP + struct.pack("<Q", target), len(_JUMP) + 8)


def _patch_torch(driver: Driver) -> None:
    """CPU tensors are on device 0, of whose stream and guard torch's functions know."""
    device = driver.device

    class Guard:
        def __init__(self, index: int) -> None:
            self.index = index

        def __enter__(self) -> None:
            driver.guards += 1
            self.before, device.value = device.value, self.index

        def __exit__(self, *error: object) -> None:
            device.value = self.before

    current = SimpleNamespace(cuda_stream=STREAM)

    def current_stream(index: int | None = None) -> SimpleNamespace:
        driver.streams += 1
        return current

    torch.Tensor.get_device = lambda tensor: 0  # type: ignore[method-assign]
    torch.cuda.device = Guard  # type: ignore[misc,assignment]
    torch.cuda.current_stream = current_stream  # type: ignore[assignment]
