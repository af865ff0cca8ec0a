"""Deformable convolution against the authors' kernels, torchvision and the reference."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from conv_cases import (
    NAMES,
    ON_THE_MAP,
    SMALL_GROUPS,
    Case,
    assert_alike,
    by_autograd,
    by_cpu,
    by_cpu_path,
    by_reference,
    factor_everywhere,
    random_case,
    small_groups_case,
)
from tester import LAYOUTS, TOLERANCES, assert_near
from torch import Tensor, nn

import dcnlab.ops
from dcnlab.ops import ArgumentError, chunk_sizes, deform_conv2d, reference
from dcnlab.ops.chunk_sizes import CpuChunks
from dcnlab.ops.cpu import conv_call, depthwise_call
from dcnlab.ops.cpu import deform_conv2d as cpu
from dcnlab.ops.cpu import deform_conv2d_callbacks as callbacks
from dcnlab.ops.geometry import ConvGradients

WAYS = pytest.mark.parametrize("sizes", [{}, SMALL_GROUPS], ids=["columns", "small groups"])
"""Sizes of a case that one of the CPU's two paths computes."""
GOLDEN = [f"modulated_deform_conv_{i}" for i in range(4)]


def golden(path: Path) -> tuple[dict[str, Tensor], dict[str, tuple[int, int]]]:
    with np.load(path) as file:
        arrays = {name: torch.from_numpy(file[name]) for name in file.files}
    sizes = {name: (int(arrays[f"{name}_h"]), int(arrays[f"{name}_w"])) for name in ("stride", "pad", "dilation")}
    return arrays, {"stride": sizes["stride"], "padding": sizes["pad"], "dilation": sizes["dilation"]}


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize("function", [reference.deform_conv2d, deform_conv2d], ids=["reference", "cpu"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_equals_the_authors_kernel_with_all_gradients(goldens, name, function, dtype):
    """Golden arrays of the authors' CUDA kernel: output and all four gradients."""
    arrays, sizes = golden(goldens / f"{name}.npz")
    leaves = {k: arrays[k].to(dtype).requires_grad_() for k in ("input", "offset", "weight", "mask")}
    output = function(leaves["input"], leaves["offset"], leaves["weight"], mask=leaves["mask"], **sizes)
    output.backward(arrays["grad_output"].to(dtype))
    found = {"output": output.detach()} | {f"grad_{k}": t.grad for k, t in leaves.items()}
    for key, value in found.items():
        tolerance = 1e-10 if dtype == torch.float64 else 1e-5
        error = (value.double() - arrays[key]).abs().max() / max(1, arrays[key].abs().max())
        assert error <= tolerance, f"{key}: {error}"


@pytest.mark.parametrize("seed", range(60))
def test_equals_torchvision_over_random_shapes(seed):
    """60 random shapes, strides, groups and masks: output and all gradients."""
    case = random_case(seed)
    assert_near(by_cpu(case), by_autograd(torchvision.ops.deform_conv2d, case), case)


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("seed", range(12))
def test_small_groups_equal_torchvision(seed, depth):
    """Groups of one, two and four channels with one to three filters each: output and all gradients."""
    case = small_groups_case(seed, depth)
    assert_near(by_cpu(case), by_autograd(torchvision.ops.deform_conv2d, case), case)


@pytest.mark.parametrize(
    ("sizes", "served"),
    [
        ({"channels": 6, "filters": 6, "groups": 6}, True),
        (SMALL_GROUPS, True),
        ({"channels": 6, "filters": 6, "groups": 6, "offset_groups": 6}, True),
        ({"channels": 24, "filters": 8, "groups": 8, "offset_groups": 1}, True),
        ({"channels": 24, "filters": 8, "groups": 8, "offset_groups": 2}, False),  # four groups of three channels
        ({"channels": 6, "filters": 6, "groups": 3, "offset_groups": 2}, False),  # a group with two offset groups
        ({"channels": 6, "filters": 6}, False),
        ({"channels": 640, "filters": 640, "groups": 40}, False),  # groups of 16
        ({"channels": 1, "filters": 1}, False),
    ],
    ids=str,
)
def test_many_small_groups_are_computed_without_columns(sizes, served):
    """Worked cases of groups, channels and offset groups."""
    assert depthwise_call.serves(Case(**sizes).arguments().geometry) == served


@pytest.mark.parametrize("batch", [33, 37])
def test_batches_that_no_chunk_divides_equal_torchvision(batch):
    case = Case(batch=batch, groups=2, offset_groups=2, modulated=True, biased=True)
    assert_near(by_cpu(case), by_autograd(torchvision.ops.deform_conv2d, case), case)


def test_the_reference_equals_torchvision():
    """All other paths are compared with the reference, so it needs an oracle from outside."""
    for seed in range(20):
        case = random_case(seed)
        assert_near(by_reference(case), by_autograd(torchvision.ops.deform_conv2d, case), case)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("seed", range(12))
def test_narrower_dtypes_stay_near_the_float64_reference(seed, dtype):
    """Random cases, of small groups for every second seed."""
    case = small_groups_case(seed, 1 + seed % 4, dtype=dtype) if seed % 2 else random_case(seed, dtype=dtype)
    found = by_cpu(case)
    assert found["output"].dtype == dtype
    assert found["input"].dtype == dtype
    assert_near(found, by_reference(case), case)


def test_small_chunks_give_what_one_chunk_gives():
    case = Case(batch=3, channels=6, groups=3, offset_groups=2, modulated=True, biased=True)
    assert_near(by_cpu_path(case, CpuChunks(columns_bytes=3000, min_rows=1)), by_reference(case), case)


@pytest.mark.parametrize("biased", [False, True])
def test_packed_filters_serve_many_chunks(biased):
    """Filters packed once give the reference's values in twelve chunks, the last one shorter."""
    case = Case(channels=8, filters=5, biased=biased, dtype=torch.float32)
    chunks = CpuChunks(columns_bytes=1, min_rows=10)  # twelve, the last one shorter
    assert_near(by_cpu_path(case, chunks), by_reference(case), case)


@pytest.mark.parametrize("threads", [2, 3, 64])
def test_pixels_divided_among_threads_are_summed_once(monkeypatch, threads):
    """Many locations fall on one pixel; more threads than rows must not lose any."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    case = Case(channels=120, filters=4, offset_groups=3, groups=2, height=9, stride=(2, 1), reach=12.0, modulated=True)
    assert_near(by_cpu(case), by_autograd(torchvision.ops.deform_conv2d, case), case)


@WAYS
@pytest.mark.parametrize("modulated", [False, True])
def test_an_empty_batch_gives_empty_results(modulated, sizes):
    case = Case(batch=0, modulated=modulated, biased=True, **sizes)
    found = by_cpu(case)
    assert found["output"].shape == (0, case.filters, 7, 8)
    assert found["input"].shape == (0, case.channels, 7, 8)
    assert not found["weight"].any()
    assert not found["bias"].any()


@pytest.mark.parametrize(
    ("pixels", "channels", "rows"),
    [
        (64 * 64, 512, 464),  # 455 fit: nine chunks of whole blocks of 16
        (38 * 63, 512, 400),  # six chunks, the last of 394
        (28 * 28, 128, 272),  # three of 256 and a rest of 16 would be four
        (32 * 32, 512, 256),
        (20 * 20, 512, 208),
        (7 * 7, 512, 49),
        (0, 8, 1),
    ],
)
def test_chunks_are_whole_blocks_without_a_small_rest(pixels, channels, rows):
    """Worked cases of pixels and channels give the rows of a chunk."""
    assert CpuChunks().rows(pixels, 9 * channels * 4) == rows


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_maps_smaller_than_their_filters_transpose_columns(groups, dtype):
    """With fewer pixels than filters the columns are transposed, not the weight; values stay."""
    case = Case(channels=6, filters=96, height=4, width=5, groups=groups, modulated=True, biased=True, dtype=dtype)
    assert conv_call.Call(case.arguments(), None).turns
    assert_near(by_cpu(case), by_reference(case), case)
    double = Case(**{**vars(case), "dtype": torch.float64})
    assert_near(by_cpu(double), by_autograd(torchvision.ops.deform_conv2d, double), double)


@pytest.fixture(params=[None, 3], ids=["one product", "products of packed filters"])
def _chunks(request, monkeypatch):
    if request.param:
        monkeypatch.setattr(chunk_sizes, "CPU", CpuChunks(columns_bytes=1, min_rows=request.param))


@pytest.mark.usefixtures("_chunks")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("argument", NAMES)
@WAYS
def test_strided_arguments_count_as_their_values(argument, dtype, sizes):
    """Each argument in turn is a strided view, for several chunk sizes."""
    case = Case(modulated=True, biased=True, dtype=dtype, **sizes)

    def with_one_strided(input, offset, weight, bias, *, mask, **sizes):
        tensors = dict(zip(NAMES, (input, offset, mask, weight, bias), strict=True))
        tensor = tensors[argument]
        wide = torch.full((*tensor.shape, 3), float("nan"), dtype=tensor.dtype)
        wide[..., 1] = tensor
        tensors[argument] = wide[..., 1]
        assert not tensors[argument].is_contiguous()
        return deform_conv2d(
            *(tensors[k] for k in ("input", "offset", "weight", "bias")), mask=tensors["mask"], **sizes
        )

    assert_near(by_autograd(with_one_strided, case), by_reference(case), case)


@pytest.mark.usefixtures("_chunks")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@WAYS
def test_conv_gradients_do_not_depend_on_their_memory_layout(layout, dtype, sizes):
    """Strided, expanded and transposed output gradients count as their values."""
    case = Case(modulated=True, biased=True, dtype=dtype, **sizes)
    tensors = case.tensors()
    tensors["bias"] = tensors["bias"][:1].expand(len(tensors["bias"]))
    leaves = [tensors[name].requires_grad_() for name in NAMES]
    input, offset, mask, weight, bias = leaves
    output = deform_conv2d(input, offset, weight, bias, padding=1, mask=mask)
    grad = LAYOUTS[layout](case.grad())
    expected = torch.autograd.grad(output, leaves, grad.contiguous(), retain_graph=True)
    found = torch.autograd.grad(output, leaves, grad)
    assert_near(dict(zip(NAMES, found, strict=True)), dict(zip(NAMES, expected, strict=True)), case)


FACTORS = pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan")], ids=str)


@FACTORS
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("groups", [1, 8])
def test_a_nonfinite_factor_counts_alike_on_every_path(value, dtype, groups):
    """Off the map the output is zero, whatever the factor."""
    case = factor_everywhere(value, dtype, groups)
    found, expected = by_cpu(case), by_reference(case)
    assert_alike(found, expected, ("output", "input", "mask", "weight"), TOLERANCES[dtype])
    assert torch.equal(found["offset"].isfinite(), expected["offset"].isfinite())
    nothing = expected["output"][ON_THE_MAP:, :, 0, 0]
    assert not nothing.any()  # off the map: zero, whatever the factor


@FACTORS
def test_nonfinite_factors_on_the_map_match_torchvision(value):
    """NaN or infinity in mask, weight or gradient gives torchvision's values at locations on the map."""
    case = factor_everywhere(value, torch.float64)
    found, expected = by_reference(case), by_autograd(torchvision.ops.deform_conv2d, case)
    there = [{name: results[name][:ON_THE_MAP] for name in NAMES[:3]} for results in (found, expected)]
    outputs = [{"output": results["output"][:ON_THE_MAP]} for results in (found, expected)]
    torch.testing.assert_close(*(of["output"] for of in outputs), equal_nan=True)
    for name in ("input", "mask"):
        torch.testing.assert_close(*(of[name] for of in there), equal_nan=True)
    assert torch.equal(*(of["offset"].isfinite() for of in there))


@WAYS
def test_gradcheck_of_every_argument(sizes):
    sizes = {"channels": 4, "filters": 2, "groups": 2, "offset_groups": 2} | sizes
    case = Case(batch=1, height=4, width=5, modulated=True, biased=True, **sizes)
    leaves = [case.tensors()[k].requires_grad_() for k in NAMES]
    assert torch.autograd.gradcheck(lambda i, o, m, w, b: deform_conv2d(i, o, w, b, padding=1, mask=m), leaves)


def test_second_derivatives_are_right():
    case = Case(batch=1, channels=2, filters=2, height=3, width=4, offset_groups=2, modulated=True)
    leaves = [case.tensors()[k].requires_grad_() for k in ("input", "offset", "mask", "weight")]
    assert torch.autograd.gradgradcheck(lambda i, o, m, w: deform_conv2d(i, o, w, padding=1, mask=m), leaves)


class Module(nn.Module):
    def forward(self, input, offset, weight):
        return dcnlab.ops.deform_conv2d(input, offset, weight, padding=1)


def test_the_bare_backward_operator_refuses_derivatives():
    """An error names the public function; a silent zero gradient would be wrong."""
    input, offset, _, weight, _ = (Case().tensors()[name] for name in NAMES)
    with pytest.raises(RuntimeError, match="differentiate the public function twice"):
        torch.ops.dcnlab.deform_conv2d_backward(
            Case().grad().requires_grad_(), input, offset, weight, None, [1, 1], [1, 1], [1, 1], None, [True] * 5
        )


@WAYS
@pytest.mark.parametrize("corner", [(0, 0), (-1, -1)])
def test_an_infinite_border_pixel_spreads_as_in_torchvision(corner, sizes):
    """A corner pixel of infinity makes no more outputs NaN than in torchvision."""
    tensors = Case(kernel=(3, 3), **sizes).tensors()
    tensors["input"][0, 1, corner[0], corner[1]] = float("inf")
    args = [tensors[name] for name in ("input", "offset", "weight")]
    expected = torchvision.ops.deform_conv2d(*args, padding=1)
    torch.testing.assert_close(deform_conv2d(*args, padding=1), expected, equal_nan=True)


def test_deform_conv2d_is_one_node_in_fx():
    """torch.fx must not trace into it."""
    graph = torch.fx.symbolic_trace(Module()).graph
    assert [node.target for node in graph.nodes if node.op == "call_function"] == [deform_conv2d]


def test_autocast_casts_input_and_weight_not_offsets():
    """Offsets and masks stay float32; all gradients have the leaves' dtype."""
    case = Case(dtype=torch.float32, modulated=True, biased=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = by_cpu(case)
    assert found["output"].dtype == torch.bfloat16
    assert {name: found[name].dtype for name in NAMES} == dict.fromkeys(NAMES, torch.float32)
    assert_near(found, by_reference(case), case, tolerance=0.03)


def test_autocast_does_not_round_the_products_of_a_float64_call():
    """float64 arguments under bfloat16 autocast give float64's accuracy."""
    case = Case()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_near(by_cpu(case), by_reference(case), case)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_computes_locations_in_float32(dtype):
    """At column 1333 a float16 coordinate would be wrong by half a pixel."""
    # A ramp of slope 1/16 over 64 columns, wherever the map is that wide: half precision holds it exactly, and a
    # coordinate that was rounded to half precision at 1333 would be wrong by up to half a pixel.
    width = 1333
    ramp = (torch.arange(width) % 64 / 16).to(dtype).expand(1, 1, 1, width)
    shift = torch.full((1, 2, 1, width), 0.25)
    shift[:, 0] = 0
    output = deform_conv2d(ramp, shift, torch.ones(1, 1, 1, 1, dtype=dtype)).float().flatten()
    expected = (torch.arange(width) % 64 / 16 + 0.25 / 16).to(dtype).float()
    inner = torch.arange(width) % 64 < 63
    inner[-1] = False
    torch.testing.assert_close(output[inner], expected[inner], rtol=0, atol=0)


@pytest.mark.parametrize("place", [float("nan"), float("inf"), -float("inf"), 1e20, -1e20], ids=str)
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("sizes", [{}, {"groups": 4, "filters": 4}], ids=["columns", "small groups"])
def test_a_nonfinite_location_reads_zero_there_only(place, axis, sizes):
    """NaN, infinite or huge offsets give 0 at their location and finite gradients everywhere."""
    tensors = Case(kernel=(1, 1), padding=(0, 0), **sizes).tensors()
    broken = tensors["offset"].clone()
    broken[0, axis, 3, 4] = place
    leaves = [t.requires_grad_() for t in (tensors["input"], broken, tensors["weight"])]
    output = deform_conv2d(*leaves)
    expected = deform_conv2d(tensors["input"], tensors["offset"], tensors["weight"]).detach().clone()
    expected[0, :, 3, 4] = 0
    torch.testing.assert_close(output.detach(), expected)
    output.sum().backward()
    assert all(leaf.grad.isfinite().all() for leaf in leaves)
    assert not broken.grad[0, :, 3, 4].any()


def test_gradients_repeat_bit_for_bit():
    """Threads add to the same pixels; the order of the sums must be fixed."""
    case = Case(batch=3, channels=64, filters=32, height=15, width=17, reach=6.0, dtype=torch.float32, modulated=True)
    first = by_cpu(case)
    for _ in range(5):
        for name, value in by_cpu(case).items():
            assert value is None or torch.equal(value, first[name]), name


@pytest.mark.parametrize(
    ("name", "kernels_run"),
    [
        ("input", {"scatter"}),
        ("offset", {"places_backward"}),
        ("mask", {"places_backward"}),
        ("weight", {"sample"}),
    ],
)
def test_frozen_arguments_run_no_kernels(monkeypatch, name, kernels_run):
    """Each kernel runs only where one of its gradients is needed."""
    # Only the kernels that a gradient needs run; the columns are sampled again for the weight's alone.
    loops = {
        callbacks.sampling(np.float64): "sample",
        callbacks.gradients_of_places(np.float64): "places_backward",
        callbacks.scattering(np.float64): "scatter",
    }
    seen: set[str] = set()
    run = conv_call.run

    def spy(loop, numbers, parts):
        seen.add(loops[loop])
        if loops[loop] == "places_backward":
            table = np.array(numbers).view(callbacks.PLACES_BACKWARD.dtype)[0]
            assert table["columns"]["n0"] == 0, "columns were wanted"
        run(loop, numbers, parts)

    monkeypatch.setattr(conv_call, "run", spy)
    case = Case(modulated=True)
    tensors = case.tensors()
    leaves = {k: None if t is None else t.requires_grad_(k == name) for k, t in tensors.items()}
    output = deform_conv2d(leaves["input"], leaves["offset"], leaves["weight"], padding=1, mask=leaves["mask"])
    seen.clear()
    output.backward(case.grad())
    assert seen == kernels_run
    assert_near({name: leaves[name].grad}, {name: by_reference(case)[name]}, case)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"offset": lambda t: t[:, :2]}, "offset"),
        ({"offset": lambda t: t[:, :, :-1]}, "offset"),
        ({"mask": lambda t: t[:, :2]}, "mask"),
        ({"mask": lambda t: t[..., :-1]}, "mask"),
        ({"weight": lambda t: t[:, :3]}, "weight"),
        ({"weight": lambda t: t.float()}, "weight"),
        ({"bias": lambda t: t[:-1]}, "bias"),
        ({"input": lambda t: t[0]}, "input"),
        ({"input": lambda t: t[:1]}, "offset"),
        ({"offset": lambda t: t.long()}, "offset"),
    ],
)
def test_a_wrong_argument_is_named_in_one_line(change, name):
    """The message begins with the argument's name."""
    tensors = Case(modulated=True, biased=True).tensors()
    tensors |= {k: alter(tensors[k]) for k, alter in change.items()}
    with pytest.raises(ArgumentError, match=rf"^{name}: ") as caught:
        deform_conv2d(*(tensors[k] for k in ("input", "offset", "weight", "bias")), padding=1, mask=tensors["mask"])
    assert isinstance(caught.value, RuntimeError)  # what torchvision raises
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("sizes", "name"),
    [
        ({"stride": 0}, "stride"),
        ({"padding": -1}, "padding"),
        ({"dilation": (1, 0)}, "dilation"),
        ({"stride": (1, 1, 1)}, "stride"),
    ],
)
def test_a_wrong_size_is_named_in_one_line(sizes, name):
    """Wrong stride, padding and dilation begin the message."""
    tensors = Case().tensors()
    with pytest.raises(ArgumentError, match=rf"^{name}: "):
        deform_conv2d(*(tensors[k] for k in ("input", "offset", "weight")), **({"padding": 1} | sizes))


def test_importing_the_operators_loads_nothing_beyond_torch():
    """dcnlab.ops can be used in other projects without our other packages."""
    code = (
        "import sys, torch; before = set(sys.modules); import dcnlab.ops\n"
        "print(sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['dcnlab']"


@pytest.mark.parametrize("offset_groups", [1, 2])
def test_threads_change_no_bit_of_small_groups(offset_groups):
    """Several bands of images and runs of groups, whose sums' order the sizes alone decide."""
    sizes = {"channels": 896, "filters": 896, "groups": 896, "offset_groups": offset_groups}
    case = Case(batch=3, height=11, width=9, reach=6.0, dtype=torch.float32, modulated=True, biased=True, **sizes)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 3, 3):
            torch.set_num_threads(count)
            results.append(by_cpu(case))
    finally:
        torch.set_num_threads(threads)
    assert_near(results[0], by_reference(case), case)
    for name, value in results[0].items():
        if name != "bias":  # torch's own sum
            assert all(torch.equal(value, other[name]) for other in results[1:]), name


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("filters", [8, 16])
@pytest.mark.parametrize("batch", [1, 11])
def test_small_groups_in_small_chunks_equal_the_reference(batch, filters, layout):
    """Chunks begin and end within an image, and cover up to ten images in eight bands."""
    case = Case(batch=batch, channels=8, height=4, width=5, modulated=True, biased=True, groups=8, filters=filters)
    tensors = case.tensors()
    tensors["input"] = tensors["input"].to(memory_format=layout)
    expected = by_reference(case)
    case.tensors = lambda: tensors
    for rows in (3, 20, 190):
        found = by_cpu_path(case, CpuChunks(columns_bytes=1, min_rows=rows, row_multiple=1))
        assert_near(found, expected, case)
        assert found["output"].is_contiguous(memory_format=layout)
        assert found["input"].is_contiguous(memory_format=layout)


@pytest.mark.parametrize("name", ["input", "offset", "mask", "weight"])
def test_each_gradient_of_small_groups_comes_alone(name):
    """A gradient computed without the others equals the reference's; the others are None."""
    case = Case(modulated=True, **SMALL_GROUPS)
    needed = ConvGradients(*(each == name for each in ConvGradients._fields))
    grads = cpu.backward(case.grad(), case.arguments(), needed)._asdict()
    assert [each for each, grad in grads.items() if grad is not None] == [name]
    torch.testing.assert_close(grads[name], by_reference(case)[name], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("groups", "offset_groups"), [(1152, 1), (1152, 8), (385, 1), (17, 1), (1537, 1)])
def test_runs_cover_each_offset_group_equally_often(groups, offset_groups):
    """Every group is in one run; no run is longer than the limit or leaves its offset group."""
    case = Case(batch=0, channels=groups, filters=groups, groups=groups, offset_groups=offset_groups)
    runs = depthwise_call.runs(case.arguments().geometry)
    assert [g for first, length in runs for g in range(first, first + length)] == list(range(groups))
    assert max(length for _, length in runs) <= depthwise_call.RUN
    size = groups // offset_groups
    by_offset_group = [[first // size, (first + length - 1) // size] for first, length in runs]
    count = len(runs) // offset_groups
    assert by_offset_group == [[number, number] for number in range(offset_groups) for _ in range(count)]


def test_the_number_of_threads_does_not_change_the_result():
    """One and three threads agree to 1e-6; only the matrix product may round differently."""
    case = Case(batch=2, channels=256, filters=16, height=19, width=23, dtype=torch.float32)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = by_cpu(case)
        torch.set_num_threads(3)
        assert_near(by_cpu(case), alone, case, tolerance=1e-6)  # the library's product may cut its sums by threads
    finally:
        torch.set_num_threads(threads)
