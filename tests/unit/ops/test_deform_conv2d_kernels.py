"""The CUDA path of deformable convolution on this machine's CPU: its own orchestration, kernels compiled by g++."""

import numpy as np
import pytest
import torch
from conv_cases import (
    Case,
    assert_alike,
    by_kernels,
    by_reference,
    factor_everywhere,
    random_case,
)
from counting import CountedKernels
from runner import HostKernels, HostModule, skip_without_compiler
from tester import TOLERANCES, assert_near

from dcnlab.ops.cuda import conv_call, conv_variants
from dcnlab.ops.cuda import deform_conv2d as cuda
from dcnlab.ops.cuda.kernel_arguments import DIVISOR, divisor
from dcnlab.ops.cuda.source import source_text
from dcnlab.ops.geometry import ConvGradients

ORDERS = ("forward", "reverse", "random")


@pytest.fixture(autouse=True)
def _needs_a_compiler():
    skip_without_compiler()


@pytest.mark.parametrize("seed", range(30))
def test_conv_kernels_equal_the_reference_in_any_order(seed):
    """Every order of threads on the host gives the same bits, so no result depends on a race."""
    case = random_case(seed)
    expected = by_reference(case)
    found = [by_kernels(case, HostKernels(order, sanitize=False)) for order in ORDERS]
    assert_near(found[0], expected, case)
    for other in found[1:]:
        for name, value in other.items():
            assert value is None or torch.equal(value, found[0][name]), (
                f"{name} depends on the order of threads: {case}"
            )


@pytest.mark.parametrize("size", [3, 5, 12])
def test_pixels_read_by_all_locations_sum_in_a_fixed_order(size):
    """All offsets point to four pixels: their long sums are the same in every order of threads."""
    case = Case(batch=1, channels=4, filters=4, height=size, width=size, modulated=True, dtype=torch.float32)
    tensors = case.tensors()
    grid = torch.arange(size)
    y = 1.25 - (grid.view(1, 1, size, 1) - 1 + torch.arange(3).view(3, 1, 1, 1))  # from each tap's own row to 1.25
    y = y.expand(3, 3, size, size).reshape(9, size, size)
    x = 1.5 - (grid.view(1, 1, 1, size) - 1 + torch.arange(3).view(1, 3, 1, 1))
    x = x.expand(3, 3, size, size).reshape(9, size, size)
    tensors["offset"] = torch.stack((y, x), 1).reshape(1, 18, size, size).float()
    case.tensors = lambda: {k: None if t is None else t.clone() for k, t in tensors.items()}
    found = [by_kernels(case, HostKernels(order, sanitize=False))["input"] for order in ORDERS]
    expected = by_reference(case)["input"]
    assert (expected != 0).any(1).sum() == 4  # pixels, with 9 * size^2 entries each
    torch.testing.assert_close(found[0].double(), expected, rtol=1e-5, atol=1e-4)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_whole_offsets_make_one_entry_and_zero_masks_none():
    """At offset zero three of four corners have weight 0, and all four where the mask is 0."""
    case = Case(batch=1, channels=8, filters=8, height=6, width=6, modulated=True, dtype=torch.float32)
    tensors = case.tensors()
    tensors["offset"].zero_()
    tensors["mask"][:, :, :, 3:] = 0
    case.tensors = lambda: {k: None if t is None else t.clone() for k, t in tensors.items()}
    kernels = CountedKernels()
    assert_near(by_kernels(case, kernels), by_reference(case), case)
    on_map = (3 * 6 - 2) * (3 * 3 - 1)  # rows but those above and below the map, columns of the left half but one
    gather = next(launch for launch in kernels.launches if launch.kernel == "gather")
    assert gather.loads["grad_columns"].bytes == on_map * 8 * 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_pixel_all_locations_read_is_summed_by_one_block(dtype):
    """Every location reads one pixel: the block's warps take equal numbers of its entries."""
    size = 12
    case = Case(batch=1, channels=64, filters=8, height=size, width=size, dtype=dtype)
    tensors, grid, taps = case.tensors(), torch.arange(size), torch.arange(3)
    y = 5.0 - (grid.view(1, 1, size, 1) - 1 + taps.view(3, 1, 1, 1)).expand(3, 3, size, size).reshape(9, size, size)
    x = 7.0 - (grid.view(1, 1, 1, size) - 1 + taps.view(1, 3, 1, 1)).expand(3, 3, size, size).reshape(9, size, size)
    tensors["offset"] = torch.stack((y, x), 1).reshape(1, 18, size, size).float()
    case.tensors = lambda: {k: None if t is None else t.clone() for k, t in tensors.items()}
    found = [by_kernels(case, HostKernels(order, sanitize=False)) for order in ORDERS]
    assert_near(found[0], by_reference(case), case)
    assert all(torch.equal(found[0]["input"], other["input"]) for other in found[1:])
    kernels = CountedKernels()
    by_kernels(case, kernels)
    gather = next(launch for launch in kernels.launches if launch.kernel == "gather")
    entries, lanes = 9 * size * size, 64 * dtype.itemsize // 16
    alone = entries * -(-lanes // 32)  # requests of a warp that sums them all
    # As many threads a key as channels take; the block's other threads share the entries, so a warp holds several.
    assert gather.loads["grad_columns"].requests <= alone * lanes / 32 * 1.1


@pytest.mark.parametrize("seed", range(10))
def test_chunks_of_part_of_an_image_add_up(seed):
    """Chunks of 2000 bytes end within images."""
    case = random_case(seed, batch=3)
    assert_near(by_kernels(case, HostKernels(sanitize=False), chunk_bytes=2000), by_reference(case), case)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("channels", [8, 40, 7, 288, 36, 34])
def test_loads_of_every_width_are_right_in_every_dtype(dtype, channels):
    """Channel counts from 7 to 288 choose single and wide loads."""
    case = Case(channels=channels, filters=8, height=5, width=6, dtype=dtype, modulated=True, biased=True)
    assert_near(by_kernels(case, HostKernels("random", sanitize=False)), by_reference(case), case)


@pytest.mark.parametrize(
    ("dtype", "channels", "offset_groups", "width"),
    [
        (torch.bfloat16, 36, 1, 4),
        (torch.float16, 68, 1, 4),
        (torch.bfloat16, 72, 2, 4),
        (torch.float16, 34, 1, 2),
        (torch.float32, 34, 1, 2),
        (torch.bfloat16, 21, 1, 1),
    ],
    ids=str,
)
def test_odd_channel_counts_use_the_next_narrower_load(dtype, channels, offset_groups, width):
    """36, 34 or 21 channels choose loads of 4, 2 or 1 elements and equal the reference."""
    case = Case(1, channels, 4, 5, 6, offset_groups=offset_groups, dtype=dtype, modulated=True)
    kernels, asked = HostKernels(sanitize=False), set()

    def modules(source_file, prelude):
        asked.add(prelude["VEC"])
        return kernels(source_file, prelude)

    assert_near(by_kernels(case, modules), by_reference(case), case)
    assert asked == {width}


def test_maps_at_unaligned_addresses_use_narrower_loads():
    """A view that starts 4 bytes behind a multiple of 16 must not be read by wide loads."""
    case = Case(1, 16, 4, 5, 6, dtype=torch.float16)
    tensors = case.tensors()
    held = torch.empty(tensors["input"].numel() + 2, dtype=torch.float16)
    held[2:] = tensors["input"].permute(0, 2, 3, 1).reshape(-1)
    tensors["input"] = held[2:].view(1, 5, 6, 16).permute(0, 3, 1, 2)  # 4 bytes behind a multiple of 16
    case.tensors = lambda: tensors
    assert_near(by_kernels(case, HostKernels(sanitize=False)), by_reference(case), case)
    assert conv_variants.widest(torch.float16, 4, False, (16, 16)) == (2, False)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize("channels", [16, 5])
def test_ragged_sizes_access_no_stray_memory(dtype, channels):
    """Sanitizers watch the kernels at sizes that fill no block."""
    case = Case(batch=1, channels=channels, filters=3, height=3, width=5, reach=9.0, dtype=dtype, modulated=True)
    assert_near(by_kernels(case, HostKernels(sanitize=True)), by_reference(case), case)


@pytest.mark.parametrize("place", [float("nan"), float("inf"), 1e20])
def test_nonfinite_locations_access_no_stray_memory(place):
    """Sanitizers watch the kernels at NaN, infinite and huge offsets; results are finite."""
    case = Case(batch=1, height=4, width=4)
    tensors = case.tensors()
    tensors["offset"][0, ::3, 1:3, 2] = place
    case.tensors = lambda: {k: None if t is None else t.clone() for k, t in tensors.items()}
    found = by_kernels(case, HostKernels(sanitize=True))
    assert_near(found, by_reference(case), case)
    assert all(value is None or value.isfinite().all() for value in found.values())


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan")], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
def test_nonfinite_factors_equal_the_reference(value, dtype):
    """NaN and infinity in mask, weight or gradient give the reference's values."""
    case = factor_everywhere(value, dtype)
    found, expected = by_kernels(case, HostKernels(sanitize=False)), by_reference(case)
    assert_alike(found, expected, ("output", "input", "mask", "weight"), TOLERANCES[dtype])
    assert torch.equal(found["offset"].isfinite(), expected["offset"].isfinite())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("chunk_bytes", [2000, 7000, None])
@pytest.mark.parametrize("groups", [1, 2])
def test_results_keep_the_inputs_memory_format(groups, chunk_bytes, dtype, layout):
    """Output and input gradient are NCHW or channels_last as the input is, for any chunk size."""
    case = Case(batch=3, channels=8, groups=groups, modulated=True, biased=True, dtype=dtype)
    tensors = case.tensors()
    tensors["input"] = tensors["input"].to(memory_format=layout)
    case.tensors = lambda: tensors
    found = by_kernels(case, HostKernels(sanitize=False), chunk_bytes)
    assert found["output"].is_contiguous(memory_format=layout)
    assert found["input"].is_contiguous(memory_format=layout)
    assert_near(found, by_reference(case), case)


def test_64_bit_indices_give_what_32_bit_ones_give(monkeypatch):
    """INT_MAX is set to 0, so that small maps use the kernels for large ones."""
    case = Case(channels=8, groups=2, offset_groups=2, modulated=True)
    narrow = by_kernels(case, HostKernels(sanitize=False))
    monkeypatch.setattr(conv_call, "INT_MAX", 0)
    wide = by_kernels(case, HostKernels(sanitize=False))
    for name, value in narrow.items():
        assert value is None or torch.equal(value, wide[name])


@pytest.mark.parametrize(
    ("needed", "launched"),
    [
        ({"input"}, ["entries", "entries", "gather"]),
        ({"offset"}, ["places_backward"]),
        ({"mask"}, ["places_backward"]),
        ({"weight"}, ["sample"]),
        ({"input", "weight"}, ["sample_and_count", "entries", "gather"]),
        ({"input", "offset"}, ["entries", "places_backward", "gather"]),
        ({"input", "offset", "mask", "weight"}, ["sample_and_count", "places_backward", "gather"]),
    ],
    ids=lambda names: " ".join(sorted(names)),
)
@pytest.mark.parametrize("chunk_bytes", [2000, None])
def test_only_needed_gradients_launch_kernels(chunk_bytes, needed, launched):
    """Each combination launches its own kernels, repeated for each chunk, with the right values."""
    case, kernels = Case(modulated=True), HostKernels(sanitize=False)
    all_needed = ConvGradients(*(name in needed for name in ConvGradients._fields))
    grads = cuda.backward(case.grad(), case.arguments(), all_needed, kernels, chunk_bytes)
    assert kernels.launched == launched * (len(kernels.launched) // len(launched))
    assert (len(kernels.launched) > len(launched)) == (chunk_bytes is not None)
    assert {name for name, grad in grads._asdict().items() if grad is not None} == needed
    expected = by_reference(case)
    for name, grad in grads._asdict().items():
        if name in needed:
            torch.testing.assert_close(grad, expected[name], rtol=1e-9, atol=1e-9, msg=name)


def test_division_by_multiplication_is_exact():
    """The kernels' quotients equal n // d for all kinds of divisors up to 2**31 - 1."""
    prelude = next(v.prelude for v in conv_variants.variants() if v.main and v.prelude["scalar_t"] == "float")
    kernel = """
extern "C" __global__ void quotients(const int* __restrict__ n, int* __restrict__ out, Divisor by, int count) {
    for (int i = 0; i < count; ++i) out[i] = divide(n[i], by);
}
"""
    module = HostModule(source_text("deform_conv2d.cu", prelude) + kernel, sanitize=False)
    random = np.random.default_rng(0)
    powers = [2**k + d for k in range(31) for d in (-1, 0, 1)]
    for value in sorted(
        {v for v in (*range(1, 70), *powers, *random.integers(1, 2**31, 50).tolist()) if 0 < v < 2**31}
    ):
        multiples = random.integers(0, (2**31 - 1) // value + 1, 200) * value
        n = np.concatenate(
            [multiples, multiples - 1, multiples + value - 1, random.integers(0, 2**31, 200), [2**31 - 1]]
        )
        n = n.clip(0, 2**31 - 1).astype(np.int32)
        out = torch.zeros(len(n), dtype=torch.int32)
        by = np.array(divisor(value), dtype=DIVISOR)[()]
        module.launch("quotients", (1,), (1,), (torch.from_numpy(n), out, by, np.int32(len(n))))
        np.testing.assert_array_equal(out.numpy(), n // value, err_msg=str(value))
