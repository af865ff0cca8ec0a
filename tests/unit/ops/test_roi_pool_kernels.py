"""The CUDA path of both RoI poolings on this machine's CPU: its own orchestration, kernels compiled by g++."""

import numpy as np
import pytest
import torch
from counting import CountedKernels
from roi_cases import RULES, Case, arguments_of, by_kernels, by_reference, random_case
from runner import HostKernels, HostModule, skip_without_compiler
from test_roi_pool import GOLDEN, golden
from tester import assert_near

from dcnlab.ops.cuda import roi_pool as cuda
from dcnlab.ops.cuda.source import source_text
from dcnlab.ops.pool_geometry import PoolGradients, PSRoIPoolArguments, RoIPoolArguments

ORDERS = ("forward", "reverse", "random")
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture(autouse=True)
def _needs_a_compiler():
    skip_without_compiler()


@pytest.mark.parametrize(("rule", "name"), GOLDEN)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_pool_kernels_equal_the_published_ones(goldens, rule, name, dtype):
    """Golden arrays of the authors' and mmcv's kernels, all gradients, also at kinks."""
    arrays, sizes = golden(goldens / f"{name}.npz", rule)
    input, boxes, grad = (arrays[k].to(dtype) for k in ("input", "boxes", "grad_output"))
    offset = arrays["offset"].to(dtype) if "offset" in arrays else None
    arguments = (PSRoIPoolArguments if rule == "ps" else RoIPoolArguments)(input, boxes, offset, **sizes)
    modules = HostKernels(sanitize=False)
    grads = cuda.backward(grad, arguments, PoolGradients(True, offset is not None), modules)
    found = {"output": cuda.forward(arguments, modules), "grad": grads.input}
    if offset is not None:
        found["grad_offset"] = grads.offset
    for key, value in found.items():
        tolerance = 1e-10 if dtype == torch.float64 else 1e-5
        error = (value.double() - arrays[key]).abs().max() / max(1, arrays[key].abs().max())
        assert error <= tolerance, f"{key}: {error}"


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", range(25))
def test_pool_kernels_equal_the_reference_in_any_order(seed, rule):
    """Every order of threads on the host gives the same bits, so no result depends on a race."""
    case = random_case(seed, rule, dtype=DTYPES[seed % 4])
    expected = by_reference(case)
    found = [by_kernels(case, HostKernels(order, sanitize=False)) for order in ORDERS]
    assert_near(found[0], expected, case)
    for other in found[1:]:
        for name, value in other.items():
            assert value is None or torch.equal(value, found[0][name]), (
                f"{name} depends on the order of threads: {case}"
            )


@pytest.mark.parametrize("rule", RULES)
def test_random_cases_equal_the_reference(rule):
    """200 random cases for each pooling rule."""
    for seed in range(2000, 2200):
        case = random_case(seed, rule, dtype=DTYPES[seed % 2])
        assert_near(by_kernels(case, HostKernels(sanitize=False)), by_reference(case), case)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", [8, 40, 7, 288, 36, 34])
def test_loads_of_every_width_are_right_in_every_dtype(dtype, channels, rule):
    """Channel counts from 7 to 288 choose single and wide loads."""
    case = Case(rule, channels=channels, dtype=dtype, rois=3)
    modules = HostKernels("random", sanitize=False)
    assert_near(by_kernels(case, modules), by_reference(case), case)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("dtype", "channels", "width"),
    [(torch.bfloat16, 36, 4), (torch.float16, 68, 4), (torch.bfloat16, 34, 2), (torch.float32, 34, 2)],
    ids=str,
)
def test_odd_channel_counts_use_the_next_narrower_load(rule, dtype, channels, width):
    """36 or 34 channels choose loads of 4 or 2 elements and equal the reference."""
    case, kernels, asked = Case(rule, channels=channels, rois=3, dtype=dtype), HostKernels(sanitize=False), set()

    def modules(source_file, prelude):
        asked.add(prelude["VEC"])
        return kernels(source_file, prelude)

    assert_near(by_kernels(case, modules), by_reference(case), case)
    assert asked == {width}


@pytest.mark.parametrize(
    ("dtype", "channels", "width"),
    [(torch.bfloat16, 21, 8), (torch.float16, 81, 8), (torch.float32, 21, 4), (torch.bfloat16, 9, 2)],
    ids=str,
)
def test_odd_class_counts_are_padded_for_wide_loads(dtype, channels, width):
    """21 score maps are padded to loads of 8 elements; the results are contiguous and right."""
    case, kernels, asked = Case(channels=channels, group=2, rois=3, dtype=dtype), HostKernels(sanitize=False), set()

    def modules(source_file, prelude):
        asked.add(prelude["VEC"])
        return kernels(source_file, prelude)

    found = by_kernels(case, modules)
    assert asked == {width}
    assert_near(found, by_reference(case), case)
    assert all(value.is_contiguous() for value in found.values())


def test_infinite_scores_do_not_leak_into_padded_channels():
    """One class of infinite scores leaves all other outputs and the gradient finite."""
    case = Case(channels=21, group=2, rois=3, scale=1.0, dtype=torch.float32)
    tensors = case.tensors()
    tensors["input"][:, :4] = float("inf")
    case.tensors = lambda: {k: t.clone() for k, t in tensors.items()}
    found = by_kernels(case, HostKernels(sanitize=False))
    assert found["output"][:, 1:].isfinite().all()
    assert found["input"].isfinite().all()


def test_each_class_uses_its_own_offsets():
    """Few classes of many channels and many of few equal the reference."""
    for classes, channels in ((21, 21), (4, 32), (2, 80), (3, 9)):
        case = Case(channels=channels, classes=classes, group=3, rois=3, dtype=torch.float32)
        assert_near(by_kernels(case, HostKernels(sanitize=False)), by_reference(case), case)


@pytest.mark.parametrize("rule", RULES)
def test_bins_larger_than_a_warps_tile_equal_the_reference(rule):
    """One bin reads more than 32 rows and columns of the map."""
    samples = 45 if rule == "ps" else 0  # so that more than 32 rows and columns are read by one bin
    case = Case(rule, 1, 2, 50, 45, 2, (1, 1), part=1, samples=samples, scale=0.9177, seed=3)
    tensors = case.tensors()
    tensors["boxes"][:] = torch.tensor([[0.0, 2, 3, 45.5, 48.5], [0, -7, 8, 60, 70]])
    case.tensors = lambda: {k: t.clone() for k, t in tensors.items()}
    assert_near(by_kernels(case, HostKernels(sanitize=False)), by_reference(case), case)


@pytest.mark.parametrize("rule", RULES)
def test_boxes_beyond_one_round_of_a_block_are_summed(rule):
    """60 boxes need several rounds; the order of threads changes no bit."""
    case = Case(rule, 2, 3, 9, 10, rois=60, samples=1)
    found = [by_kernels(case, HostKernels(order, sanitize=False)) for order in ORDERS]
    assert_near(found[0], by_reference(case), case)
    assert torch.equal(found[0]["input"], found[1]["input"])
    assert torch.equal(found[0]["input"], found[2]["input"])


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("rois", [31, 32, 33, 64, 65, 150])
def test_every_bin_of_a_full_tile_is_added_once(rule, rois):
    """31 to 150 RoIs on one pixel: full and part-full words of bins add each gradient once."""
    case = Case(rule, 1, 8, 6, 6, rois, (1, 1), part=1, samples=1, scale=1.0, shifted=False, dtype=torch.float32)
    boxes = torch.tensor([[0.0, 1, 1, 3, 3]]).repeat(rois, 1)
    boxes[64::3, 0] = -1  # of no image: words are full, then not
    grad = torch.ones(rois, 8, 1, 1)
    arguments = arguments_of(case, boxes=boxes)
    found, _ = cuda.backward(grad, arguments, PoolGradients(True, False), HostKernels("random", sanitize=False))
    added = float((boxes[:, 0] == 0).sum())  # the weights of each are one altogether
    torch.testing.assert_close(found.sum((0, 2, 3)), torch.full((8,), added))


@pytest.mark.parametrize("rule", RULES)
def test_tiles_read_only_boxes_whose_bins_overlap(rule):
    """Counted loads: boxes of the first tile are not read for the others."""
    case = Case(rule, 2, 8, 32, 32, 40, (2, 2), part=2, samples=1, scale=1.0, shifted=False, dtype=torch.float32)
    boxes = torch.tensor([[0.0, 1, 1, 2, 2]]).repeat(40, 1)  # all bins within the first tile of the first image
    kernels = CountedKernels()
    cuda.backward(case.grad(), arguments_of(case, boxes=boxes), PoolGradients(True, False), kernels)
    lists, sums = kernels.launches
    assert (lists.kernel, sums.kernel) == ("list_bins", "input_backward")
    assert lists.loads["boxes"].bytes == sums.loads["boxes"].bytes == 4 * 40 * 5 * 4  # four bins a box
    assert sums.loads["grad"].bytes >= 4 * 40 * 8 * 4


@pytest.mark.parametrize("rule", RULES)
def test_kernels_get_sizes_as_numpy_scalars(rule):
    """A Python int has no width, and CuPy takes 17 us over a 0-d array."""
    given = []

    class Witness(HostModule):
        def launch(self, kernel, grid, block, args, shared_bytes=0):
            given.extend((kernel, arg) for arg in args if not isinstance(arg, torch.Tensor | None))
            super().launch(kernel, grid, block, args, shared_bytes)

    case = Case(rule)
    by_kernels(case, lambda file, prelude: Witness(source_text(file, prelude), sanitize=False))
    assert {kernel for kernel, _ in given} == {"pool", "list_bins", "input_backward", "offset_backward"}
    assert all(isinstance(arg, np.generic) for _, arg in given)  # CuPy takes 17 us over a 0-d array


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize("channels", [16, 5])
def test_ragged_sizes_access_no_stray_memory(rule, dtype, channels):
    """Sanitizers watch the kernels at sizes that fill no tile."""
    group = 2 if rule == "ps" else 1
    case = Case(rule, 2, channels, 3, 11, 4, (3, 3), group=group, part=2, reach=3.0, dtype=dtype)
    assert_near(by_kernels(case, HostKernels(sanitize=True)), by_reference(case), case)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("samples", [0, 2])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e20])
def test_nonfinite_boxes_and_offsets_access_no_stray_memory(rule, samples, value):
    """Sanitizers watch the kernels at NaN, huge values and image numbers of no image."""
    case = Case(rule, rois=6, samples=max(samples, 1) if rule == "ps" else samples)
    tensors = case.tensors()
    tensors["offset"][0, :, 1] = value
    for number, column in enumerate(range(5)):
        tensors["boxes"][1 + number, column] = value
    tensors["boxes"][0, 0] = -1
    case.tensors = lambda: {k: t.clone() for k, t in tensors.items()}
    found = by_kernels(case, HostKernels(sanitize=True))
    assert all(result.isfinite().all() for result in found.values())
    assert not any(found["output"][number].any() for number in range(2))


@pytest.mark.parametrize("rule", RULES)
def test_a_nan_gradient_reaches_only_the_pixels_of_its_bin(rule):
    """The NaN pixels are exactly those that a gradient of one reaches."""
    case = Case(rule, 1, 1, 16, 16, 1, (1, 1), part=1, samples=2, scale=1.0)
    boxes = torch.tensor([[0.0, 3, 3, 5, 5]], dtype=torch.float64)
    arguments, needed = arguments_of(case, boxes=boxes, offset=None), PoolGradients(True, False)
    grad = torch.full((1, 1, 1, 1), float("nan"), dtype=torch.float64)
    found, _ = cuda.backward(grad, arguments, needed, HostKernels(sanitize=False))
    ones, _ = cuda.backward(torch.ones_like(grad), arguments, needed, HostKernels())
    assert torch.equal(found.isnan(), ones != 0)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("sizes", [{"rois": 0}, {"batch": 0}])
def test_no_boxes_and_an_empty_batch_give_empty_results(rule, sizes):
    found = by_kernels(Case(rule, **sizes), HostKernels(sanitize=False))
    assert not any(value.any() for value in found.values())


@pytest.mark.parametrize("rule", RULES)
def test_unneeded_gradients_launch_no_kernel(rule):
    """Without the input's gradient only the offsets' kernel runs, and the other way round."""
    case = Case(rule)
    for needed, kernels in (((False, True), ["offset_backward"]), ((True, False), ["list_bins", "input_backward"])):
        modules = HostKernels(sanitize=False)
        found = cuda.backward(case.grad(), arguments_of(case), PoolGradients(*needed), modules)
        assert modules.launched == kernels
        assert [grad is not None for grad in found] == list(needed)


@pytest.mark.parametrize("rule", RULES)
def test_64_bit_indices_give_what_32_bit_ones_give(rule, monkeypatch):
    """INT_MAX is set to 0, so that small maps use the kernels for large ones."""
    case = Case(rule, channels=8, group=2 if rule == "ps" else 1, dtype=torch.float32)
    narrow = by_kernels(case, HostKernels(sanitize=False))
    monkeypatch.setattr(cuda, "INT_MAX", 0)
    wide = by_kernels(case, HostKernels(sanitize=False))
    assert_near(wide, narrow, case, tolerance=1e-6)  # single loads add in another order
