"""CuPy's real launch path over a stand-in driver: parameters byte by byte, results, and what a call asks of a GPU."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import driver
import pytest
import torch
from driver_cases import (
    Shape,
    captured,
    convolutions,
    counts,
    devices_and_threads,
    fused_convolution,
    peaks,
    poolings,
)
from operators import SHAPES
from processes import GUARD

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@pytest.fixture(scope="module")
def on_driver():
    """Runs a function in a process with the stand-in driver."""
    problem = driver.problem()
    if problem:
        pytest.skip(problem)
    with driver.stand_in() as pool:
        yield lambda function, *args: pool.submit(function, *args).result(timeout=GUARD)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_convolutions_arrive_at_the_driver_unchanged(on_driver, dtype):
    """Arguments, device and stream reach a stand-in for the CUDA driver, which computes the right result."""
    launches, problems = on_driver(convolutions, dtype)
    assert problems == []
    assert {launch.kernel for launch in launches} == {"sample", "sample_and_count", "places_backward", "gather"}
    assert {(launch.device, launch.stream) for launch in launches} == {(0, driver.STREAM)}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_poolings_arrive_at_the_driver_unchanged(on_driver, dtype):
    """Arguments of forward and backward kernels reach the stand-in driver, with the right result."""
    launches, problems = on_driver(poolings, dtype)
    assert problems == []
    assert {"pool", "input_backward", "offset_backward"} <= {launch.kernel for launch in launches}


def test_fused_kernels_get_their_shared_memory(on_driver):
    """More than 48 KiB must be requested, and the result is right."""
    (launch,), problems = on_driver(fused_convolution)
    assert problems == []
    assert launch.kernel == "fused"
    assert launch.shared_bytes > 48 << 10


COUNTED = {
    "512x64x64": (Shape(512, 64, 64), (1, 1, {}, 2), (3, 2, {"zero_": 1}, 6)),
    "512x64x64, 8 images, two chunks": (
        Shape(512, 64, 64, batch=8),
        (2, 2, {}, 2),
        (6, 4, {"zero_": 1, "add_": 1, "_to_copy": 1}, 8),
    ),
    "512x38x63, float32": (Shape(512, 38, 63, dtype=torch.float32), (1, 1, {}, 2), (3, 2, {"zero_": 1}, 6)),
    "128x64x64, 8 images, mask, bias": (
        Shape(128, 64, 64, batch=8, modulated=True, biased=True),
        (1, 1, {}, 2),
        (3, 2, {"zero_": 1}, 7),
    ),
    "64x56x56, 2 images, groups": (
        Shape(64, 56, 56, batch=2, groups=4, offset_groups=2),
        (1, 1, {}, 2),
        (3, 2, {"zero_": 1}, 6),
    ),
    # The weight with taps first, and back; no columns, and so no products.
    "256x38x63, a group a channel": (
        Shape(256, 38, 63, groups=256),
        (1, 0, {"clone": 1}, 2),
        (3, 0, {"clone": 1, "zero_": 1, "sum": 1, "_to_copy": 1}, 8),
    ),
    # Maps, gradients and weights are brought into the kernels' order, and back.
    "256x32x32, contiguous": (
        Shape(256, 32, 32, channels_last=False),
        (1, 1, {"clone": 2}, 4),
        (3, 2, {"zero_": 1, "clone": 2, "_to_copy": 2}, 10),
    ),
    # The gradient of several images is copied too.
    "256x32x32, contiguous, 2 images": (
        Shape(256, 32, 32, batch=2, channels_last=False),
        (1, 1, {"clone": 2}, 4),
        (3, 2, {"zero_": 1, "clone": 3, "_to_copy": 2}, 11),
    ),
}
"""Kernels of ours, products, torch's kernels and allocations of a forward and of a backward pass."""


@pytest.mark.parametrize("name", COUNTED)
def test_gpu_calls_make_the_expected_launches(on_driver, name):
    """Kernels, matrix products, allocations and guards of a call are counted."""
    shape, *expected = COUNTED[name]
    for found, (kernels, products, others, allocations) in zip(on_driver(counts, shape), expected, strict=True):
        assert (found["kernels"], found["products"], Counter(found["torch"])) == (kernels, products, Counter(others))
        assert found["allocations"] == allocations
        assert (found["guards"], found["streams"]) == (1, 1)


@pytest.mark.parametrize("shape", SHAPES["paper"] + SHAPES["resnet"], ids=str)
def test_a_batch_in_one_chunk_takes_two_and_six_launches(on_driver, shape):
    """Within the memory budget the forward pass takes 2 kernel launches, the backward pass 6."""
    columns = 18 * shape.channels * shape.batch * shape.height * shape.width
    if columns > 256 << 20:
        pytest.skip("several chunks")
    forward, backward = on_driver(counts, Shape(shape.channels, shape.height, shape.width, shape.batch))
    assert (forward["launches"], backward["launches"]) == (2, 6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_peak_memory_is_at_most_torchvisions(on_driver, dtype):
    """For every shape of the benchmark, forward and backward; torchvision's amount is by its source."""
    itemsize = 4 if dtype == torch.bfloat16 else dtype.itemsize  # torchvision's has no bfloat16: float32
    for shape in SHAPES["paper"] + SHAPES["resnet"]:
        places = shape.batch * shape.height * shape.width
        map, columns, weight = places * shape.channels, 9 * places * shape.channels, 9 * shape.channels**2
        # By its source: three outputs, before and after the bias and out of order; and three gradients, and a copy of
        # the output's. Columns of all images each time.
        theirs = (columns + 3 * map, columns + map + weight + 18 * places + map)
        held = on_driver(peaks, Shape(shape.channels, shape.height, shape.width, shape.batch, dtype))
        for ours, elements, name in zip(held, theirs, ("forward", "backward"), strict=True):
            assert ours <= itemsize * elements, f"{shape} {name}: {ours / 2**20:.1f} MiB"


def test_a_module_is_loaded_once_per_device(on_driver):
    """Threads share it; the numbers are compilations and loads after each call."""
    assert on_driver(devices_and_threads) == [(1, 0), (1, 0), (2, 1), (2, 1), (2, 1), (2, 0)]


_LAYER = Shape(16, 6, 7, 2, torch.float32, modulated=True, biased=True)
CAPTURED = {
    "columns": _LAYER,
    "columns, contiguous": replace(_LAYER, channels_last=False),
    "columns, groups": replace(_LAYER, groups=2, offset_groups=2),
    "a group a channel": replace(_LAYER, groups=16),
    "position-sensitive pooling": "ps",
    "aligned pooling": "aligned",
}
"""Layers of each path, whose two passes launch four kernels of ours together."""


@pytest.mark.parametrize("layer", CAPTURED)
def test_cuda_graphs_capture_after_one_warm_up(on_driver, layer):
    """After one call no module is loaded or compiled, nothing waits, and every launch is on torch's stream."""
    found = on_driver(captured, CAPTURED[layer])
    assert found == {"loaded": 0, "asked": [], "waits": [], "streams": [driver.STREAM], "launches": 4}
