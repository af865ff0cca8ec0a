"""The CUDA path of multi-scale deformable attention on this machine's CPU: kernels compiled by g++."""

import pytest
import torch
from attn_cases import Case, by_kernels, by_reference, in_float64, published, random_case
from runner import HostKernels, skip_without_compiler
from tester import assert_near

from dcnlab.ops import chunk_sizes
from dcnlab.ops.cuda import ms_deform_attn as cuda
from dcnlab.ops.ms_deform_attn import AttentionGradients

ORDERS = ("forward", "reverse", "random")
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture(autouse=True)
def _needs_a_compiler():
    skip_without_compiler()


def asking(kernels, asked):
    """Kernels that note the width of the loads asked for."""

    def modules(source_file, prelude):
        asked.add(prelude["VEC"])
        return kernels(source_file, prelude)

    return modules


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_kernels_equal_the_published_formula(dtype):
    """Output and all gradients of 25 random cases in each dtype."""
    for seed in range(25):
        case = random_case(seed, dtype=dtype)
        expected = in_float64(published, case) if dtype == torch.float64 else by_reference(case)
        assert_near(by_kernels(case, HostKernels(sanitize=False)), expected, case)


@pytest.mark.parametrize("seed", range(3))
def test_every_order_of_threads_gives_the_same_bits(seed):
    """No result depends on a race; the bins of a coarse level are filled in other orders."""
    case = Case(2, 2, 8, 5, 6, 3, 70, 4, dtype=DTYPES[1 + seed], seed=seed)
    found = [by_kernels(case, HostKernels(order, sanitize=False)) for order in ORDERS]
    assert_near(found[0], by_reference(case), case)
    for other in found[1:]:
        for name, value in other.items():
            assert torch.equal(value, found[0][name]), f"{name} depends on the order of threads: {case}"


@pytest.mark.parametrize(
    ("dtype", "channels", "width"),
    [
        (torch.float32, 32, 4),
        (torch.bfloat16, 32, 8),
        (torch.float16, 12, 4),
        (torch.float32, 34, 2),
        (torch.float16, 7, 1),
        (torch.float32, 150, 2),
        (torch.float64, 6, 2),
    ],
    ids=str,
)
def test_loads_are_as_wide_as_a_heads_channels_allow(dtype, channels, width):
    """Channel counts choose loads of 1 to 8 elements; 150 need more than a warp's lanes."""
    case, asked = Case(channels=channels, dtype=dtype), set()
    assert_near(by_kernels(case, asking(HostKernels("random", sanitize=False), asked)), by_reference(case), case)
    assert asked == {width}


@pytest.mark.parametrize("queries", [300, 40])
def test_a_pixel_that_all_samples_read_sums_them_in_order(queries, monkeypatch):
    """A long bin, beyond what a warp merges in shared memory, and bins split by queries; the same bits in any order."""
    case = Case(1, 1, 4, 6, 6, 1, queries, 1, dtype=torch.float32)
    if queries == 300:
        monkeypatch.setattr(cuda, "SPLIT", 4096)  # one bin holds all
    locations = torch.full((1, queries, 1, 1, 1, 2), 0.45)
    grad = case.grad()
    found = [
        cuda.backward(
            grad,
            case.arguments(sampling_locations=locations),
            AttentionGradients(True, False, False),
            HostKernels(order, sanitize=False),
        ).value
        for order in ORDERS
    ]
    weights = case.tensors()["attention_weights"].flatten()
    total = (grad.view(queries, 4) * weights[:, None]).double().sum(0)
    torch.testing.assert_close(found[0].double().sum((0, 1, 2)), total, rtol=1e-5, atol=1e-5)
    assert (found[0] != 0).any(3).sum() == 4
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("mebibytes", ["images", "queries"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=str)
def test_parts_of_a_batch_give_what_the_whole_gives(mebibytes, dtype, monkeypatch):
    """Entries of one image, or of a few queries, are held at a time."""
    case = Case(3, 2, 4, 5, 6, 2, 12, 2, dtype=dtype)
    of_image = 4 * 12 * 2 * 4 * (16 if dtype == torch.float64 else 8)
    limit = of_image if mebibytes == "images" else of_image // 5
    monkeypatch.setattr(chunk_sizes, "cuda_bytes", lambda: limit)
    kernels = HostKernels(sanitize=False)
    assert_near(by_kernels(case, kernels), by_reference(case), case)
    assert kernels.launched.count("attention_gather") == (3 if mebibytes == "images" else 3 * 6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize("channels", [16, 5])
def test_ragged_sizes_access_no_stray_memory(dtype, channels):
    """Sanitizers watch the kernels at sizes that fill no block."""
    case = Case(2, 3, channels, 3, 7, 3, 11, 3, reach=3.0, dtype=dtype)
    assert_near(by_kernels(case, HostKernels(sanitize=True)), by_reference(case), case)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30, -3e9])
def test_locations_that_are_no_places_access_no_stray_memory(value):
    """Sanitizers watch the kernels; the samples read nothing, also with an infinite weight."""
    case = Case(dtype=torch.float32)
    tensors = case.tensors()
    locations, weights = tensors["sampling_locations"], tensors["attention_weights"]
    locations[0, :, :, 0, 0, 0], locations[1, :, :, 1, 1, 1], weights[0, :, :, 0, 0] = value, value, torch.inf
    case.tensors = lambda: {k: t.clone() for k, t in tensors.items()}
    found = by_kernels(case, HostKernels(sanitize=True))
    assert all(result.isfinite().all() for result in found.values())
    assert not found["sampling_locations"][0, :, :, 0, 0].any()
    assert not found["attention_weights"][1, :, :, 1, 1].any()
    assert_near(found, by_reference(case), case)


@pytest.mark.parametrize(
    "wrong", [(1, [[7, 8], [2**40, 4]]), (1, [[7, 8], [5, 4]]), (2, [0, -1]), (2, [0, 10**15]), (2, [0, 0])]
)
def test_unchecked_shapes_access_no_stray_memory(wrong):
    """Levels that do not lie within value read nothing, and overlapping ones stay within the bins."""
    case = Case(dtype=torch.float32)
    position, numbers = wrong
    arguments = list(case.arguments())
    arguments[position] = torch.tensor(numbers)
    arguments = case.arguments()._make(arguments)
    output = cuda.forward(arguments, HostKernels(sanitize=True))
    if numbers != [0, 0]:
        weights = arguments.attention_weights.clone()
        weights[:, :, :, 1] = 0
        right = case.arguments(attention_weights=weights)
        torch.testing.assert_close(output, cuda.forward(right, HostKernels(sanitize=False)))
    grads = cuda.backward(case.grad(), arguments, AttentionGradients(True, True, True), HostKernels(sanitize=True))
    assert all(grad.isfinite().all() for grad in grads)


def test_an_infinite_gradient_reaches_only_what_it_belongs_to():
    """Samples off the level get no NaN from a gradient of infinity."""
    case = Case(1, 1, 4, 4, 4, 1, 1, 2, normalized=False)
    locations = torch.tensor([[-0.5, 1.5], [9.0, 9.0]]).view(1, 1, 1, 1, 2, 2).double()
    grad = torch.full((1, 1, 4), torch.inf, dtype=torch.float64)
    arguments = case.arguments(sampling_locations=locations)
    found = cuda.backward(grad, arguments, AttentionGradients(True, True, True), HostKernels(sanitize=False))
    assert not found.sampling_locations[..., 1, :].any()
    assert not found.attention_weights[..., 1].any()
    assert found.value.isinf().sum() == 2 * 4
    assert not found.value.isnan().any()


@pytest.mark.parametrize("empty", ["batch", "queries", "points", "channels", "levels"])
def test_empty_sizes_launch_nothing(empty):
    """Zeros of the right shapes."""
    case, kernels = Case(**{empty: 0}), HostKernels(sanitize=False)
    found = by_kernels(case, kernels)
    assert kernels.launched == []
    assert not any(value.any() for value in found.values())
    assert found["value"].shape == case.tensors()["value"].shape


def test_unneeded_gradients_launch_no_kernel():
    """Each gradient alone runs its own kernels, and the others are None."""
    sort = ["attention_entries", "attention_sums", "attention_entries", "attention_gather"]
    case = Case()
    for needed, launched in (((True, False, False), sort), ((False, True, False), ["attend_backward"])):
        kernels = HostKernels(sanitize=False)
        found = cuda.backward(case.grad(), case.arguments(), AttentionGradients(*needed), kernels)
        assert kernels.launched == launched
        assert [grad is not None for grad in found] == list(needed)


def test_64_bit_indices_give_what_32_bit_ones_give(monkeypatch):
    """INT_MAX is set to 0, so that a small case uses the kernels for large tensors."""
    case = Case(channels=8, dtype=torch.float32)
    narrow = by_kernels(case, HostKernels(sanitize=False))
    monkeypatch.setattr(cuda, "INT_MAX", 0)
    wide = by_kernels(case, HostKernels(sanitize=True))
    assert_near(wide, narrow, case, tolerance=1e-6)
