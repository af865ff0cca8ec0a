"""Deformable convolution of a group a channel on CUDA: its kernels, compiled by g++, under the operator's own code."""

import pytest
import torch
import torchvision
from conv_cases import (
    Case,
    assert_alike,
    by_autograd,
    by_kernels,
    by_reference,
    depthwise_case,
    factor_everywhere,
)
from counting import CountedKernels
from runner import HostKernels, skip_without_compiler
from tester import TOLERANCES, assert_near

from dcnlab.ops.cuda import conv_call
from dcnlab.ops.cuda import deform_conv2d as cuda
from dcnlab.ops.geometry import ConvGradients

ORDERS = ("forward", "reverse", "random")
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture(autouse=True)
def _needs_a_compiler():
    skip_without_compiler()


@pytest.mark.parametrize("seed", range(24))
def test_depthwise_kernels_equal_the_reference_in_any_order(seed):
    """Every order of threads on the host gives the same bits, so no result depends on a race."""
    case = depthwise_case(seed, dtype=DTYPES[seed % 4])
    kernels = [HostKernels(order, sanitize=False) for order in ORDERS]
    found = [by_kernels(case, modules) for modules in kernels]
    assert kernels[0].launched[0] == "depthwise"
    assert_near(found[0], by_reference(case), case)
    for other in found[1:]:
        for name, value in other.items():
            assert value is None or torch.equal(value, found[0][name]), (
                f"{name} depends on the order of threads: {case}"
            )


@pytest.mark.parametrize("seed", range(100, 108))
def test_kernels_equal_torchvisions_operator(seed):
    case = depthwise_case(seed)
    assert_near(by_kernels(case, HostKernels(sanitize=False)), by_autograd(torchvision.ops.deform_conv2d, case), case)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", [8, 36, 21, 34, 288])
def test_depthwise_loads_of_every_width_are_right(dtype, channels):
    """8, 36, 21 and 34 channels choose each load; 288 exceed one block."""
    case = Case(
        1, channels, channels, 5, 6, groups=channels, dtype=dtype, modulated=True, biased=True
    )  # 288: more channels than a block has threads and loads
    assert_near(by_kernels(case, HostKernels("random", sanitize=False)), by_reference(case), case)


@pytest.mark.parametrize("taps", [(1, 1), (5, 7), (7, 7)], ids=str)
def test_kernels_with_many_taps_are_summed_completely(taps):
    """7x7 taps need more than one round of a block."""
    case = Case(1, 4, 4, 9, 9, taps, padding=(2, 3), groups=4, modulated=True, dtype=torch.float32)
    assert_near(by_kernels(case, HostKernels(sanitize=False)), by_reference(case), case)


def test_depthwise_runs_and_image_chunks_add_up():
    """Runs of 64 pixels that do not divide the map, and one chunk per image, equal the reference."""
    case = Case(3, 6, 12, 13, 11, groups=6, offset_groups=2, modulated=True)  # 143 pixels an image, runs of 64
    expected = by_reference(case)
    assert_near(by_kernels(case, HostKernels(sanitize=False)), expected, case)
    kernels = HostKernels(sanitize=False)
    assert_near(by_kernels(case, kernels, chunk_bytes=1000), expected, case)
    assert kernels.launched.count("depthwise_gather") == 3


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize(("channels", "multiplier"), [(16, 1), (5, 1), (3, 2)])
def test_depthwise_ragged_sizes_access_no_stray_memory(dtype, channels, multiplier):
    """Sanitizers watch the kernels at sizes that fill no block."""
    case = Case(
        1, channels, channels * multiplier, 3, 5, groups=channels, reach=9.0, dtype=dtype, modulated=True, biased=True
    )
    assert_near(by_kernels(case, HostKernels(sanitize=True)), by_reference(case), case)


@pytest.mark.parametrize("place", [float("nan"), float("inf"), 1e20])
def test_depthwise_nonfinite_locations_access_no_stray_memory(place):
    """Sanitizers watch the kernels at NaN, infinite and huge offsets; results are finite."""
    case = Case(batch=1, height=4, width=4, groups=4, filters=4)
    tensors = case.tensors()
    tensors["offset"][0, ::3, 1:3, 2] = place
    case.tensors = lambda: {k: None if t is None else t.clone() for k, t in tensors.items()}
    found = by_kernels(case, HostKernels(sanitize=True))
    assert_near(found, by_reference(case), case)
    assert all(value is None or value.isfinite().all() for value in found.values())


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan")], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=str)
def test_depthwise_nonfinite_factors_equal_the_reference(value, dtype):
    """NaN and infinity in mask, weight or gradient give the reference's values."""
    case = factor_everywhere(value, dtype, groups=8)
    found, expected = by_kernels(case, HostKernels(sanitize=False)), by_reference(case)
    assert_alike(found, expected, ("output", "input", "mask", "weight"), TOLERANCES[dtype])
    assert torch.equal(found["offset"].isfinite(), expected["offset"].isfinite())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("stride", [(1, 1), (8, 8)], ids=["a map", "one pixel"])
def test_depthwise_results_keep_the_inputs_memory_format(stride, layout):
    """Also for maps of one pixel, whose strides fit both formats."""
    case = Case(batch=2, channels=8, filters=8, groups=8, stride=stride, biased=True, dtype=torch.float32)
    tensors = case.tensors()
    tensors["input"] = tensors["input"].to(memory_format=layout)
    case.tensors = lambda: tensors
    found = by_kernels(case, HostKernels(sanitize=False))
    strides = torch.empty(found["output"].shape).to(memory_format=layout).stride()
    assert found["output"].stride() == strides
    assert found["input"].is_contiguous(memory_format=layout)
    assert found["weight"].is_contiguous()
    assert_near(found, by_reference(case), case)


def test_64_bit_indices_give_what_32_bit_ones_give(monkeypatch):
    """INT_MAX is set to 0, so that small maps use the kernels for large ones."""
    case = Case(channels=8, filters=8, groups=8, offset_groups=2, modulated=True)
    narrow = by_kernels(case, HostKernels(sanitize=False))
    monkeypatch.setattr(conv_call, "INT_MAX", 0)
    assert_near(by_kernels(case, HostKernels(sanitize=False)), narrow, case, tolerance=1e-12)


@pytest.mark.parametrize(
    ("needed", "launched"),
    [
        ("input", {"entries", "depthwise_gather"}),
        ("offset", {"depthwise_places_backward"}),
        ("mask", {"depthwise_places_backward"}),
        ("weight", {"depthwise_places_backward"}),
    ],
)
def test_only_the_gradients_that_are_needed_launch_kernels(needed, launched):
    case, kernels = Case(modulated=True, groups=4, filters=4), HostKernels(sanitize=False)
    grads = cuda.backward(case.grad(), case.arguments(), alone(needed), kernels)
    assert set(kernels.launched) == launched
    assert [name for name, grad in grads._asdict().items() if grad is not None] == [needed]


def alone(name):
    """One gradient is needed, the others are not."""
    return ConvGradients(*(each == name for each in ConvGradients._fields))


def test_an_empty_depthwise_batch_gives_zero_weight_gradient():
    """A batch of 0 gives an empty output and a weight gradient of zeros."""
    case = Case(batch=0, groups=4, filters=4)
    found = by_kernels(case, HostKernels(sanitize=False))
    assert found["output"].shape == (0, 4, 7, 8)
    assert not found["weight"].any()


@pytest.mark.parametrize("order", ORDERS)
def test_depthwise_blocks_sum_channels_in_several_rounds(order):
    """288 channels take three rounds of a block, which must wait for the sums of the last one."""
    case = Case(1, 288, 288, 9, 9, groups=288, dtype=torch.float32)  # three rounds of 32 threads of 4 channels
    assert_near(by_kernels(case, HostKernels(order, sanitize=False)), by_reference(case), case)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", ["input", "offset", "mask", "weight"])
def test_each_depthwise_gradient_can_be_requested_alone(name, order):
    """A gradient computed without the others equals the reference in each order of threads."""
    case = Case(2, 8, 8, 7, 8, groups=8, modulated=True)
    kernels = HostKernels(order, sanitize=False)
    found = getattr(cuda.backward(case.grad(), case.arguments(), alone(name), kernels), name)
    expected = by_reference(case)[name]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_an_infinite_gradient_skips_offsets_off_the_map():
    """Locations that read nothing must get 0, not NaN."""
    case = Case(1, 4, 4, 4, 4, (1, 1), padding=(0, 0), groups=4, dtype=torch.float32)
    tensors = case.tensors()
    tensors["offset"].zero_()
    tensors["offset"][0, 0, 0] = -9.0  # the first row reads nothing
    case.tensors = lambda: {k: None if t is None else t.clone() for k, t in tensors.items()}
    case.grad = lambda: torch.full((1, 4, 4, 4), float("inf"))
    found = by_kernels(case, HostKernels(sanitize=False))
    assert not found["offset"][0, :, 0].any()


def test_depthwise_reads_each_location_once_for_all_channels():
    """Counted loads: offsets are read once for 32 channels, and four corners in one request."""
    case = Case(1, 32, 32, 8, 8, groups=32, dtype=torch.float32)
    kernels = CountedKernels()
    by_kernels(case, kernels)
    forward = kernels.launches[0]
    assert forward.kernel == "depthwise"
    assert forward.loads["shift"].bytes == 4 * 2 * 9 * 64  # once a location; by columns it was 32 times single loads
    assert forward.loads["pixels"].requests <= 4 * 9 * 64 // 2  # a warp reads four locations' corners at once
    assert forward.stores["output"].bytes == 4 * 64 * 32
