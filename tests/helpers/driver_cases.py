"""What runs in the process with the stand-in driver; the tests of test_cuda_driver.py submit these functions."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import conv_cases
import driver
import metering
import roi_cases
import torch
from tester import TOLERANCES, assert_near
from torch import Tensor

from dcnlab.ops.cuda import conv_call, fused, roi_pool
from dcnlab.ops.cuda import deform_conv2d as cuda
from dcnlab.ops.cuda.launch import CudaModule, ModuleFactory, module
from dcnlab.ops.cuda.source import source_text
from dcnlab.ops.geometry import ConvArguments, ConvGradients
from dcnlab.ops.pool_geometry import PoolGradients


@dataclass(frozen=True)
class Shape:
    """A 3x3 layer with as many filters as channels, and how its tensors lie."""

    channels: int
    height: int
    width: int
    batch: int = 1
    dtype: torch.dtype = torch.bfloat16
    channels_last: bool = True
    offset_groups: int = 1
    groups: int = 1
    modulated: bool = False
    biased: bool = False

    def calls(
        self, chunk_bytes: int | None = None, modules: ModuleFactory = module
    ) -> tuple[Callable[[], Tensor], Callable[[], ConvGradients[Tensor | None]]]:
        """The forward and the backward pass on tensors that nobody has written."""
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        maps = (self.batch, self.channels, self.height, self.width)

        def empty(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=self.dtype, memory_format=layout)

        input, grad = empty(*maps), empty(*maps)
        weight = empty(self.channels, self.channels // self.groups, 3, 3)
        offset = torch.empty(self.batch, 18 * self.offset_groups, *maps[2:])
        mask = torch.empty(self.batch, 9 * self.offset_groups, *maps[2:]) if self.modulated else None
        bias = torch.empty(self.channels, dtype=self.dtype) if self.biased else None
        arguments = ConvArguments(input, offset, weight, bias, (1, 1), (1, 1), (1, 1), mask)
        needed = ConvGradients(input=True, offset=True, weight=True, bias=False, mask=self.modulated)
        return (
            lambda: cuda.forward(arguments, modules, chunk_bytes),
            lambda: cuda.backward(grad, arguments, needed, modules, chunk_bytes),
        )


def seen(work: Callable[[], object]) -> tuple[list[driver.Launched], list[str]]:
    """The launches that some work makes, executed, and what was wrong with them."""
    here = driver.installed()
    here.executes(True)
    here.launches.clear()
    here.problems.clear()
    work()
    return list(here.launches), list(here.problems)


def convolutions(dtype: torch.dtype) -> tuple[list[driver.Launched], list[str]]:
    """Random convolutions, and one in chunks, held against the reference."""
    case = conv_cases.Case
    cases = [(conv_cases.random_case(seed, dtype=dtype), None) for seed in range(3)]
    cases += [(case(3, 72, 32, 9, 11, modulated=True, biased=True, dtype=dtype), size) for size in (None, 30000)]

    def work() -> None:
        for each, chunk_bytes in cases:
            found = conv_cases.by_kernels(each, module, chunk_bytes)
            assert_near(found, conv_cases.by_reference(each), each)

    return seen(work)


def fused_convolution() -> tuple[list[driver.Launched], list[str]]:
    """The fused kernel in its larger tile, which takes more shared memory than a kernel is given unasked."""
    case = conv_cases.Case(2, 64, 136, 9, 11, modulated=True, biased=True, dtype=torch.bfloat16)
    channels_last = {
        name: case.tensors()[name].contiguous(memory_format=torch.channels_last)  # type: ignore[union-attr]
        for name in ("input", "weight")
    }
    call = conv_call.Call(case.arguments(**channels_last), module, None, sorts=False)

    def work() -> None:
        fused.FULL_GRID = 1
        output = fused.forward(call)
        expected = conv_cases.by_reference(case)["output"]
        assert expected is not None
        expected = expected.permute(0, 2, 3, 1).reshape(output.shape)
        error = (output.double() - expected).abs().max() / expected.abs().max()
        assert error <= TOLERANCES[torch.bfloat16]

    return seen(work)


def poolings(dtype: torch.dtype) -> tuple[list[driver.Launched], list[str]]:
    """Random poolings by both rules, held against the reference."""

    def work() -> None:
        for rule in roi_cases.RULES:
            for seed in range(2):
                case = roi_cases.random_case(seed, rule, dtype=dtype)
                assert_near(roi_cases.by_kernels(case, module), roi_cases.by_reference(case), case)

    return seen(work)


def counts(shape: Shape) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the forward and the backward pass do."""
    forward, backward = shape.calls()
    return metering.counts(forward), metering.counts(backward)


def peaks(shape: Shape) -> tuple[int, int]:
    """Most bytes that the forward and the backward pass hold, results included."""
    forward, backward = shape.calls()
    return metering.peak_bytes(forward), metering.peak_bytes(backward)


def devices_and_threads() -> list[tuple[int, int]]:
    """Modules that are loaded, and the device of the last launch: on device 0 twice, on 1 twice, on 1 in a thread."""
    here, found = driver.installed(), []
    modules = cache(lambda file, prelude: CudaModule(source_text(file, dict(prelude)) + "// a text of its own"))
    forward, _ = Shape(24, 5, 6).calls(modules=lambda file, prelude: modules(file, tuple(prelude.items())))
    here.executes(True)
    of_thread = threading.local()
    before, loaded = torch.Tensor.get_device, len(here.modules)
    torch.Tensor.get_device = lambda tensor: getattr(of_thread, "device", 0)  # type: ignore[method-assign]

    def run(device: int) -> None:
        of_thread.device = device
        forward()
        found.append((len(here.modules) - loaded, here.launches[-1].device))

    try:
        for device in (0, 0, 1, 1):
            run(device)
        thread = threading.Thread(target=run, args=(1,))
        thread.start()
        thread.join()
    finally:
        torch.Tensor.get_device = before  # type: ignore[method-assign]
    found.append((len(here.modules) - loaded, here.device.value))  # no guard is left behind
    return found


def pooling_calls(rule: str) -> tuple[Callable[[], object], Callable[[], object]]:
    """The forward and the backward pass of a pooling with offsets."""
    case = roi_cases.Case(rule, dtype=torch.float32)
    arguments, grad = roi_cases.arguments_of(case), case.grad()
    return (
        lambda: roi_pool.forward(arguments, module),
        lambda: roi_pool.backward(grad, arguments, PoolGradients(True, True), module),
    )


def captured(layer: Shape | str) -> dict[str, Any]:
    """What a pass does that follows one warm-up, as one under capture by a CUDA graph does, and on which streams.

    Whatever waits for the GPU, loads or compiles a module, or asks the runtime for memory ends a capture.

    Args:
        layer: a convolution's shape, or a pooling's rule.
    """
    here = driver.installed()
    asked: list[str] = []
    here.executes(True)
    work = pooling_calls(layer) if isinstance(layer, str) else layer.calls()
    for call in work:  # it also lets the harness build what it runs
        call()
    loaded, launched = len(here.modules), len(here.launches)
    names = {"compile", "get_function", "synchronize", "malloc", "item", "tolist", "cpu", "numpy", "_load"}

    def watch(frame: Any, event: str, argument: Any) -> None:
        name = argument.__name__ if event == "c_call" else frame.f_code.co_name if event == "call" else ""
        ours = any(folder in frame.f_code.co_filename for folder in ("/dcnlab/", "/cupy"))  # not of the harness
        if name in names and ours:
            asked.append(name)

    sys.setprofile(watch)
    try:
        with metering.Meter() as meter:
            for call in work:
                call()
    finally:
        sys.setprofile(None)
    waits = {"_local_scalar_dense", "item", "nonzero", "is_nonzero"} & set(meter.kernels)
    return {
        "loaded": len(here.modules) - loaded,
        "asked": asked,
        "waits": sorted(waits),
        "streams": sorted({launch.stream for launch in here.launches[launched:]}),
        "launches": len(here.launches) - launched,
    }
