"""The authors' arrays on every CUDA path, with kernels compiled by g++: columns, depthwise, fused and pooling.

Golden layers have few channels. Equivalent layers take them to wide loads and to the depthwise and fused kernels: each
channel comes several times, with its weight divided by that power of two, or each channel is a group.
"""

import pytest
import torch
from runner import HostKernels, skip_without_compiler
from test_deform_conv2d import GOLDEN as CONVOLUTIONS
from test_deform_conv2d import golden
from test_roi_pool import GOLDEN as POOLINGS
from test_roi_pool import golden as pooling_golden
from tester import TOLERANCES
from torch import Tensor

from dcnlab.ops.cuda import conv_call, fused, roi_pool
from dcnlab.ops.cuda import deform_conv2d as cuda
from dcnlab.ops.geometry import ConvArguments, ConvGradients
from dcnlab.ops.pool_geometry import PoolGradients, PSRoIPoolArguments, RoIPoolArguments

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
LIMITS = TOLERANCES | {torch.float32: 1e-5}
"""Largest error, as a fraction of the largest entry. The arrays are exact in float32, and rounded to half precision."""

Arrays = dict[str, Tensor]


@pytest.fixture(autouse=True)
def _needs_a_compiler():
    skip_without_compiler()


@pytest.fixture
def tf32():
    """Convolutions may multiply float32 in TF32, as torch lets them by default."""
    conv = torch.backends.cudnn.conv
    before, conv.fp32_precision = conv.fp32_precision, "tf32"
    yield
    conv.fp32_precision = before


class Modules(HostKernels):
    """Host kernels whose threads run in random order; `builds` holds elements of a load, and if indices are wide."""

    def __init__(self) -> None:
        super().__init__("random", sanitize=False)
        self.builds: set[tuple[int, bool]] = set()

    def __call__(self, source_file, prelude):
        self.builds.add((prelude["VEC"], prelude["index_t"] == "long long"))
        return super().__call__(source_file, prelude)


def widest(dtype: torch.dtype, *runs: int) -> int:
    """Elements of the widest load, 16 bytes at most, that divides each run of channels."""
    return max(vec for vec in (1, 2, 4, 8) if vec * dtype.itemsize <= 16 and all(run % vec == 0 for run in runs))


def assert_golden(found: Arrays, arrays: Arrays, limit: float) -> None:
    """Hold results against the golden arrays of the same names."""
    for name, value in found.items():
        error = (value.double() - arrays[name]).abs().max() / max(1, arrays[name].abs().max())
        assert error <= limit, f"{name}: {error:.2e}"


def convolved(layer: Arrays, sizes: dict, groups: int, modules: Modules, chunk_bytes: int | None = None) -> Arrays:
    """Output and gradients of a layer on the CUDA path."""
    dtype = layer["input"].dtype
    real = torch.float64 if dtype == torch.float64 else torch.float32
    input, weight, grad = layer["input"], layer["weight"], layer["grad_output"].to(dtype)
    offset, mask = layer["offset"].to(real), layer["mask"].to(real)
    arguments = arguments_of(input, offset, weight, mask, sizes)
    assert arguments.geometry.groups == groups
    output = cuda.forward(arguments, modules, chunk_bytes)
    needed = ConvGradients(input=True, offset=True, weight=True, bias=False, mask=True)
    grads = cuda.backward(grad, arguments, needed, modules, chunk_bytes)._asdict()
    return {"output": output} | {f"grad_{name}": grads[name] for name in ("input", "offset", "mask", "weight")}


def arguments_of(input: Tensor, offset: Tensor, weight: Tensor, mask: Tensor, sizes: dict) -> ConvArguments:
    """The record of a golden layer's arguments."""
    pairs = {name: sizes[name] for name in ("stride", "padding", "dilation")}
    return ConvArguments(input=input, offset=offset, weight=weight, bias=None, mask=mask, **pairs)


def copied(arrays: Arrays, copies: int, dtype: torch.dtype) -> Arrays:
    """The golden layer with `copies` of each channel, next to each other, and the weight divided among them."""
    input = arrays["input"].repeat_interleave(copies, 1).to(dtype)
    weight = arrays["weight"].repeat_interleave(copies, 1).to(dtype) / copies
    return arrays | {"input": input, "weight": weight}


def from_copied(found: Arrays, copies: int) -> Arrays:
    """Results of a `copied` layer as the golden arrays have them."""
    of_input, of_weight = found["grad_input"].double(), found["grad_weight"].double()
    return found | {
        "grad_input": of_input.unflatten(1, (-1, copies)).sum(2),
        "grad_weight": of_weight.unflatten(1, (-1, copies)).mean(2),
    }


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("copies", [1, 2, 4, 8])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_columns_give_the_authors_arrays_at_every_load_width(goldens, name, copies, dtype):
    """Columns of the widest load that fits give the authors' output and all four gradients."""
    arrays, sizes = golden(goldens / f"{name}.npz")
    layer, modules = copied(arrays, copies, dtype), Modules()
    groups, offset_groups = int(arrays["group"]), int(arrays["deformable_group"])
    found = convolved(layer, sizes, groups, modules)
    assert set(modules.launched) == {"sample", "sample_and_count", "places_backward", "gather"}
    channels = layer["input"].shape[1]
    assert modules.builds == {(widest(dtype, channels // groups, channels // offset_groups), False)}
    assert_golden(from_copied(found, copies), arrays, LIMITS[dtype])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_columns_in_chunks_give_the_authors_arrays(goldens, name, layout, dtype):
    """Chunks that cut images add up to the authors' arrays, in both memory formats."""
    arrays, sizes = golden(goldens / f"{name}.npz")
    modules = Modules()
    layer = copied(arrays, 1, dtype)
    layer["input"] = layer["input"].to(memory_format=layout)
    found = convolved(layer, sizes, int(arrays["group"]), modules, chunk_bytes=1)
    assert modules.launched.count("sample") > len(arrays["input"])  # images, each of several chunks
    assert_golden(found, arrays, LIMITS[dtype])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_64_bit_indices_give_the_authors_arrays(goldens, name, dtype, monkeypatch):
    """Builds for tensors beyond 32-bit indices give the authors' arrays, with columns and without."""
    monkeypatch.setattr(conv_call, "INT_MAX", 0)
    arrays, sizes = golden(goldens / f"{name}.npz")
    modules, alone = Modules(), Modules()
    found = convolved(copied(arrays, 1, dtype), sizes, int(arrays["group"]), modules)
    assert_golden(found, arrays, LIMITS[dtype])
    assert_golden(by_channel(arrays, sizes, dtype, alone), arrays, LIMITS[dtype])
    assert all(wide for _, wide in modules.builds | alone.builds)


def by_channel(arrays: Arrays, sizes: dict, dtype: torch.dtype, modules: Modules, copies: int | None = None) -> Arrays:
    """The golden results by the depthwise kernels: every channel a group, whose outputs are added up afterwards.

    Args:
        arrays: golden ones.
        sizes: stride, padding and dilation.
        dtype: of the layer.
        modules: where kernels come from.
        copies: None: a channel has all its filters, as many as the golden layer has a group; else so many copies of
            each channel for each of its filters, which are then one a channel.
    """
    groups, channels = int(arrays["group"]), arrays["input"].shape[1]
    filters, taps = arrays["weight"].shape[0] // groups, arrays["weight"].shape[2:]
    each = copies or 1
    # (groups, channels, filters) of a group, from (groups * filters, channels).
    weight = arrays["weight"].unflatten(0, (groups, filters)).transpose(1, 2).reshape(channels * filters, 1, *taps)
    grad = arrays["grad_output"].unflatten(1, (groups, 1, filters))
    grad = grad.expand(-1, -1, channels // groups, -1, -1, -1).flatten(1, 3)
    layer = arrays | {
        "input": arrays["input"].repeat_interleave(filters * copies if copies else 1, 1).to(dtype),
        "weight": weight.repeat_interleave(each, 0).to(dtype) / each,
        "grad_output": grad.repeat_interleave(each, 1),
    }
    found = {k: v.double() for k, v in convolved(layer, sizes, layer["input"].shape[1], modules).items()}
    of_group = (groups, channels // groups, filters, each)
    return found | {
        "output": found["output"].unflatten(1, of_group).sum((2, 4)).flatten(1, 2),
        "grad_input": found["grad_input"].unflatten(1, (channels, -1)).sum(2),
        "grad_weight": found["grad_weight"].squeeze(1).unflatten(0, of_group).mean(3).transpose(1, 2).flatten(0, 1),
    }


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("copies", [None, 1, 2, 8])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_depthwise_kernels_give_the_authors_arrays(goldens, name, copies, dtype):
    """Several filters a channel, and one a channel at each load width, give the authors' output and gradients."""
    arrays, sizes = golden(goldens / f"{name}.npz")
    modules = Modules()
    found = by_channel(arrays, sizes, dtype, modules, copies)
    assert set(modules.launched) == {"depthwise", "entries", "depthwise_places_backward", "depthwise_gather"}
    run = copies and copies * arrays["input"].shape[1] * len(arrays["weight"]) // int(arrays["group"])
    assert modules.builds == {(widest(dtype, run // int(arrays["deformable_group"])) if run else 1, False)}
    assert_golden(found, arrays, LIMITS[dtype])


@pytest.mark.parametrize("dtype", fused.DTYPES, ids=str)
@pytest.mark.parametrize("tile", [64, 128])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_the_fused_kernel_gives_the_authors_output(goldens, name, tile, dtype, monkeypatch, tf32):
    """The fused kernel, in half precision and in TF32, gives the authors' output; groups are zeros in the weight."""
    monkeypatch.setenv("DCNLAB_FUSED", "always")
    monkeypatch.setattr(fused, "tile_of", lambda geometry, wide: tile)
    arrays, sizes = golden(goldens / f"{name}.npz")
    groups, filters = int(arrays["group"]), len(arrays["weight"])
    dense = torch.block_diag(*arrays["weight"].flatten(1).view(groups, filters // groups, -1))
    dense = dense.view(filters, -1, *arrays["weight"].shape[2:])
    layer = copied(arrays | {"weight": dense}, 8, dtype)
    weight, modules = layer["weight"].repeat_interleave(8, 0), Modules()  # filters too are read 16 bytes at a time
    input, offset, mask = layer["input"], layer["offset"].float(), layer["mask"].float()
    output = cuda.forward(arguments_of(input, offset, weight, mask, sizes), modules)
    assert modules.launched == ["fused"]
    limit = max(LIMITS[dtype], LIMITS[torch.float16])  # TF32 has float16's bits
    for copy in output.unflatten(1, (filters, 8)).unbind(2):
        assert_golden({"output": copy}, arrays, limit)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("copies", [1, 2, 4, 8])
@pytest.mark.parametrize(("rule", "name"), POOLINGS)
def test_poolings_give_the_authors_arrays_at_every_load_width(goldens, rule, name, copies, dtype):
    """Both poolings give the authors' output and gradients in every dtype and at each load width."""
    arrays, sizes = pooling_golden(goldens / f"{name}.npz", rule)
    channels, real = arrays["output"].shape[1], torch.float64 if dtype == torch.float64 else torch.float32
    by_output = arrays["input"].unflatten(1, (channels, -1)).repeat_interleave(copies, 1)
    input = by_output.flatten(1, 2).to(dtype)
    grad = (arrays["grad_output"].repeat_interleave(copies, 1) / copies).to(dtype)
    boxes, offset = arrays["boxes"].to(real), arrays["offset"].to(real) if "offset" in arrays else None
    record = PSRoIPoolArguments if rule == "ps" else RoIPoolArguments
    arguments, modules = record(input, boxes, offset, **sizes), Modules()
    output = roi_pool.forward(arguments, modules)
    grads = roi_pool.backward(grad, arguments, PoolGradients(True, offset is not None), modules)
    found = {
        "output": output.double().unflatten(1, (channels, copies)).mean(2),
        "grad": grads.input.double().unflatten(1, (channels, copies, -1)).sum(2).flatten(1, 2),
    }
    found |= {} if offset is None else {"grad_offset": grads.offset}
    if dtype != torch.float64:  # which has one build
        assert modules.builds == {(widest(dtype, channels * copies // arguments.geometry.classes), False)}
    assert_golden(found, arrays, LIMITS[dtype])
