"""Launching through CuPy, as far as it shows without a GPU."""

from __future__ import annotations

import contextlib
import ctypes
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dcnlab.ops.cuda import launch
from dcnlab.ops.cuda.kernel_arguments import check_geometry, marshal
from dcnlab.ops.cuda.launch import CudaModule, Stream, on_stream


class OnCuda(torch.Tensor):
    """A tensor that says it lies on a CUDA device."""

    device_index = 0

    def get_device(self) -> int:
        return self.device_index


def on_cuda(index: int = 0) -> OnCuda:
    tensor = torch.zeros(4).as_subclass(OnCuda)
    tensor.device_index = index
    return tensor


class FakeCuda:
    """Stands for CuPy and for torch's current device and streams; keeps what it was asked."""

    def __init__(self) -> None:
        self.device = 5
        self.compiled: list[str] = []
        self.loaded: list[tuple[str, int]] = []
        self.limits: list[tuple[str, int]] = []
        self.calls: list[SimpleNamespace] = []

    def load(self, source: str):
        self.compiled.append(source)
        return SimpleNamespace(get_function=self.get_function)

    def get_function(self, name: str):
        self.loaded.append((name, self.device))

        def kernel(grid, block, args, shared_mem, stream):
            self.calls.append(
                SimpleNamespace(
                    name=name,
                    device=self.device,
                    grid=grid,
                    block=block,
                    args=args,
                    shared=shared_mem,
                    stream=stream.ptr,
                )
            )

        kernel.name = name
        return kernel

    @contextlib.contextmanager
    def guard(self, index: int):
        before, self.device = self.device, index
        yield
        self.device = before


@pytest.fixture
def cuda(monkeypatch):
    fake = FakeCuda()
    monkeypatch.setattr(launch, "import_cupy", lambda: None)
    monkeypatch.setattr(launch.cubins, "load", fake.load)
    monkeypatch.setattr(launch, "_allow_shared_bytes", lambda kernel, size: fake.limits.append((kernel.name, size)))
    monkeypatch.setattr(torch.cuda, "device", fake.guard)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda index: SimpleNamespace(cuda_stream=1000 + index))
    return fake


def test_a_launch_uses_the_tensors_device_and_torchs_stream(cuda):
    """The device that was current before stays current, and records are passed by value."""
    tensor, record = on_cuda(1), np.zeros((), dtype=np.dtype([("a", np.int32), ("b", np.int64)], align=True))[()]
    CudaModule("the text").launch(
        "k", (2, 3), (64,), (tensor, None, np.int32(7), np.float32(0.5), record), shared_bytes=96
    )
    assert cuda.compiled == ["the text"]
    (call,) = cuda.calls
    assert (call.name, call.device, call.stream) == ("k", 1, 1001)
    assert (call.grid, call.block, call.shared) == ((2, 3), (64,), 96)
    assert call.args[:2] == [tensor.data_ptr(), 0]
    assert [type(value) for value in call.args[2:4]] == [np.int32, np.float32]
    assert call.args[4] is record
    assert cuda.device == 5  # as before the launch


def test_a_block_of_launches_queries_the_stream_once(cuda, monkeypatch):
    """Launches on another device in the block still use that device's stream."""
    asked = []
    stream = torch.cuda.current_stream
    monkeypatch.setattr(torch.cuda, "current_stream", lambda index: asked.append(index) or stream(index))
    module = CudaModule("the text")
    with on_stream(on_cuda(1)):
        for _ in range(3):
            module.launch("k", (1,), (1,), (on_cuda(1),))
        module.launch("k", (1,), (1,), (on_cuda(0),))  # another device: on that one's own stream
        with on_stream(on_cuda(0)):
            module.launch("k", (1,), (1,), (on_cuda(0),))
        module.launch("k", (1,), (1,), (on_cuda(1),))
    assert [(call.device, call.stream) for call in cuda.calls] == [(i, 1000 + i) for i in (1, 1, 1, 0, 0, 1)]
    assert asked == [1, 0, 0]
    assert cuda.device == 5
    module.launch("k", (1,), (1,), (on_cuda(1),))
    assert asked == [1, 0, 0, 1]


def test_a_block_on_the_cpu_queries_no_device(cuda):
    """A CPU tensor leaves the current CUDA device as it is."""
    with on_stream(torch.zeros(1)):
        assert cuda.device == 5


def test_a_kernel_is_loaded_once_per_device(cuda):
    """Alternating devices load each kernel once for each of them."""
    module = CudaModule("the text")
    for index in (0, 1, 0, 1):
        module.launch("k", (1,), (1,), (on_cuda(index),))
    module.launch("other", (1,), (1,), (on_cuda(0),))
    assert cuda.loaded == [("k", 0), ("k", 1), ("other", 0)]
    assert cuda.compiled == ["the text"] * 2  # on each device
    assert len(cuda.calls) == 5


def test_more_than_48_kib_of_shared_memory_is_requested_once(cuda):
    """CUDA needs a larger limit set on the kernel; it is raised only when it grows."""
    module = CudaModule("the text")
    for size in (48 << 10, 64 << 10, 64 << 10, 50 << 10, 96 << 10):
        module.launch("k", (1,), (1,), (on_cuda(),), shared_bytes=size)
    assert cuda.limits == [("k", 64 << 10), ("k", 96 << 10)]


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ((3,), TypeError, "argument 1 is a bare int; pass np.int32, np.int64 or np.float32"),
        ((0.5,), TypeError, "argument 1 is a bare float"),
        ((True,), TypeError, "argument 1 is a bare bool"),
        (("x",), TypeError, "argument 1 is a str"),
        ((np.zeros(1),), TypeError, "argument 1 is a ndarray"),
        ((np.zeros((), [("a", "i4"), ("b", "i8")])[()],), TypeError, "argument 1 is a record without C's alignment"),
        ((np.zeros((), np.dtype("i4, i8", align=True)),), TypeError, "argument 1 is an array without dimensions"),
        ((torch.zeros(1),), ValueError, "argument 1 is a tensor on cpu, not on a CUDA device"),
        ((on_cuda(1),), ValueError, "argument 1 is on cuda:1, those before it on cuda:0"),
    ],
)
def test_unsafe_launch_arguments_are_refused_by_position(args, error, message):
    """Bare numbers, host tensors, unaligned records and mixed devices name their argument."""
    with pytest.raises(error, match=f"^scatter: {message}"):
        marshal("scatter", (on_cuda(0), *args))


def test_a_launch_without_a_tensor_is_refused():
    with pytest.raises(ValueError, match="no argument is a tensor"):
        marshal("scatter", (np.int32(1), None))


@pytest.mark.parametrize(
    ("grid", "block", "message"),
    [
        ((0,), (32,), r"grid \(0,\) has a size outside 1 to 2147483647"),
        ((1, 1, 65536), (32,), "grid .* outside 1 to 65535"),
        ((2**31,), (32,), "grid .* outside 1 to 2147483647"),
        ((1, 1, 1, 1), (32,), "one to three sizes"),
        ((1,), (), "one to three sizes"),
        ((1,), (0,), "block .* outside 1 to 1024"),
        ((1,), (1, 1, 65), "block .* outside 1 to 64"),
        ((1,), (64, 32), "2048 threads, more than 1024"),
    ],
)
def test_sizes_that_cuda_cannot_launch_are_refused(grid, block, message):
    with pytest.raises(ValueError, match=f"^gather: .*{message}"):
        check_geometry("gather", grid, block)
    check_geometry("gather", (2**31 - 1, 65535, 65535), (16, 1, 64))


def test_cupy_is_not_imported_before_the_first_launch():
    """Importing the operators must work, and be quick, without CuPy."""
    code = "import sys, dcnlab.ops.cuda.launch as l; l.CudaModule('x'); assert 'cupy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_equal_variants_share_one_module(monkeypatch):
    """Another constant or source file makes another module."""
    monkeypatch.setattr(launch, "source_text", lambda source_file, prelude: f"{source_file} {prelude}")
    first = launch.module("some.cu", {"scalar_t": "float", "KH": 3})
    assert launch.module("some.cu", {"scalar_t": "float", "KH": 3}) is first
    assert launch.module("some.cu", {"scalar_t": "float", "KH": 5}) is not first
    assert launch.module("other.cu", {"scalar_t": "float", "KH": 3}) is not first


def test_cupy_reads_the_stream_from_ptr():
    """Our stream stands in for CuPy's; CuPy may read no other attribute."""
    function = pytest.importorskip("cupy.cuda.function")

    class Asked(Exception):
        pass

    class Witness:
        @property
        def ptr(self):
            raise Asked

    # Never bound to a module: the stream is the first thing that a call looks at.
    with pytest.raises(Asked):
        function.Function.__new__(function.Function)((1,), (1,), [], 0, Witness())
    assert Stream(1234).ptr == 1234


def test_cupy_passes_the_bytes_that_kernels_declare():
    """CuPy's own scalar conversion is the oracle for ints, floats and records."""
    scalars = pytest.importorskip("cupy._core._scalar")
    record = np.array((5, 2**40), dtype=np.dtype([("a", np.int32), ("b", np.int64)], align=True))
    values, _ = marshal(
        "k", (on_cuda(), None, np.int32(-3), np.int64(2**40), np.float32(1.5), np.bool_(True), record[()])
    )
    expected = [np.uint64(values[0]), np.uint64(0), *values[2:]]
    for value, reference in zip(values, expected, strict=True):
        passed = scalars.CScalar(value)
        given = np.frombuffer(ctypes.string_at(passed.ptr, reference.dtype.itemsize), reference.dtype)[0]
        assert given == reference  # by field: what lies between two of them may be anything
