"""The fused kernel of deformable convolution on this machine's CPU: tensor cores and asynchronous copies emulated."""

import pytest
import torch
from conv_cases import NAMES, Case, assert_alike, factor_everywhere, infinite_factor_at_the_border, random_case
from conv_cases import by_reference as by_reference_of
from runner import ORDERS, HostKernelError, HostKernels, HostModule, skip_without_compiler

from dcnlab.ops import reference
from dcnlab.ops.cuda import deform_conv2d as cuda
from dcnlab.ops.cuda import fused
from dcnlab.ops.cuda.source import source_text
from dcnlab.ops.geometry import ConvGeometry
from dcnlab.ops.layout import memory_format

HALVES = [torch.float16, torch.bfloat16]
DTYPES = [*HALVES, torch.float32]
ROUNDING = {torch.float16: 2**-11, torch.bfloat16: 2**-8, torch.float32: 2**-11}
"""Half the distance of two numbers at 1, of columns and output. Float32 counts as TF32, which has 11 bits."""

SHAPES = {
    "pixels, channels and filters that fill no tile": Case(channels=24, filters=40, height=7, width=11),
    "more channels than a slice, more filters than a tile": Case(batch=1, channels=136, filters=136, height=5, width=6),
    "offset groups smaller than a slice": Case(channels=48, filters=8, offset_groups=3, height=6, width=5),
    "offset groups of several slices": Case(batch=1, channels=272, filters=16, offset_groups=2, height=4, width=5),
    "strides, dilation and a kernel of two by three": Case(
        channels=16, filters=16, height=17, width=12, kernel=(2, 3), stride=(3, 2), padding=(2, 1), dilation=(2, 3)
    ),
    "one tap": Case(channels=64, filters=64, kernel=(1, 1), padding=(0, 0)),
    "five by five": Case(batch=1, channels=8, filters=8, kernel=(5, 5), padding=(2, 2), reach=6.0),
    "far offsets": Case(channels=16, filters=24, reach=20.0),
    "one pixel": Case(batch=1, channels=8, filters=8, height=1, width=1),
}


@pytest.fixture(autouse=True)
def _fused(monkeypatch):
    skip_without_compiler()
    monkeypatch.setenv("DCNLAB_FUSED", "always")
    before = torch.backends.cudnn.conv.fp32_precision
    torch.backends.cudnn.conv.fp32_precision = "tf32"
    yield
    torch.backends.cudnn.conv.fp32_precision = before


@pytest.fixture(params=[64, 128], ids=lambda tile: f"tile{tile}")
def tile(request, monkeypatch):
    monkeypatch.setattr(fused, "tile_of", lambda geometry, wide: request.param)


def tensors_of(case):
    """All five arguments: every case is modulated and has a bias."""
    return Case(**{**vars(case), "modulated": True, "biased": True}).tensors()


def run(case, kernels, tensors=None):
    output = cuda.forward(case.arguments(**(tensors or tensors_of(case))), kernels)
    assert kernels.launched == ["fused"]
    return output


def by_reference(case, tensors, change=lambda tensor: tensor):
    double = {name: None if t is None else change(t.double()) for name, t in tensors.items()}
    input, offset, mask, weight, bias = (double[name] for name in NAMES)
    offset = tensors["offset"].double()
    return reference.deform_conv2d(input, offset, weight, bias, case.stride, case.padding, case.dilation, mask)


def bound(case, tensors, expected):
    """The largest error that the formats allow, entry by entry.

    A column is rounded once (in TF32 the weight too), its four products and sums in float32 before, and the taps times
    channels products are summed in float32, whose last bit a tensor core may cut off: each costs a share of the sum of
    the products' sizes. The output is rounded once. Half precision has steps of 2^-24 near zero.
    """
    unit, depth = ROUNDING[case.dtype], tensors["weight"][0].numel()
    sizes = by_reference(case, tensors, torch.abs)
    factors = 2 if case.dtype == torch.float32 else 1
    least = depth * tensors["weight"].double().abs().max() * 2**-25 if case.dtype == torch.float16 else 0
    output = 0 if case.dtype == torch.float32 else unit * expected.abs()
    return (1.01 * factors * unit + (depth + 8) * 2**-23) * sizes + output + least


def assert_within_the_bound(case, tensors, output):
    expected = by_reference(case, tensors)
    assert output.dtype == case.dtype
    assert memory_format(output) == memory_format(tensors["input"])
    excess = (output.double() - expected).abs() / bound(case, tensors, expected)
    assert excess.max() <= 1, f"{excess.max():.2f} times what rounding allows: {case}"
    return excess.max().item()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", SHAPES)
def test_fused_equals_the_reference_in_any_thread_order(name, dtype, tile):
    """Every order of threads on the host gives the same bits, within the bound of the dtype."""
    case = Case(**{**vars(SHAPES[name]), "dtype": dtype})
    tensors = tensors_of(case)
    found = [run(case, HostKernels(order, sanitize=False), tensors) for order in ORDERS]
    assert_within_the_bound(case, tensors, found[0])
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("seed", range(20))
def test_random_sizes_equal_the_reference(seed, tile):
    """Random sizes on the host, within the error bound of the dtype."""
    case = random_case(seed, dtype=DTYPES[seed % 3], groups=1)
    case = Case(**{**vars(case), "channels": case.offset_groups * 8 * (1 + seed % 4), "filters": 8 * (1 + seed % 3)})
    tensors = tensors_of(case)
    assert_within_the_bound(case, tensors, run(case, HostKernels("random", seed, sanitize=False), tensors))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_without_mask_and_bias(dtype):
    case = Case(channels=8, filters=16, dtype=dtype)
    tensors = tensors_of(case) | {"mask": None, "bias": None}
    assert_within_the_bound(case, tensors, run(case, HostKernels(sanitize=False), tensors))


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_64_bit_indices_give_what_32_bit_ones_give(dtype, monkeypatch):
    """INT_MAX is set to 0, so that small maps use the kernel for large ones."""
    case = Case(channels=48, filters=24, offset_groups=2, dtype=dtype)
    narrow = run(case, HostKernels(sanitize=False))
    monkeypatch.setattr(fused, "INT_MAX", 0)
    assert torch.equal(run(case, HostKernels(sanitize=False)), narrow)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_fused_ragged_sizes_access_no_stray_memory(dtype, tile):
    """Sanitizers watch the kernel at sizes that fill no tile."""
    case = Case(batch=1, channels=72, filters=40, height=3, width=5, reach=9.0, dtype=dtype)
    tensors = tensors_of(case)
    assert_within_the_bound(case, tensors, run(case, HostKernels(sanitize=True), tensors))


@pytest.mark.parametrize("place", [float("nan"), float("inf"), -float("inf"), 1e20])
def test_fused_nonfinite_locations_read_zero(place):
    """Sanitizers watch the kernel at NaN, infinite and huge offsets."""
    case = Case(batch=1, channels=8, filters=8, height=4, width=4, dtype=torch.bfloat16)
    tensors = tensors_of(case)
    tensors["offset"][0, ::3, 1:3, 2] = place
    assert_within_the_bound(case, tensors, run(case, HostKernels(sanitize=True), tensors))


def infinite_pixel(dtype):
    """One tap, read half a pixel above and before each output: pixel (0, 0), infinite in a channel, counts in four."""
    case = Case(batch=1, channels=8, filters=8, height=5, width=5, kernel=(1, 1), padding=(0, 0), dtype=dtype)
    tensors = tensors_of(case)
    tensors["offset"].fill_(-0.5)
    tensors["input"][0, 3, 0, 0] = torch.inf
    return case, tensors


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_an_infinite_pixel_reaches_only_adjacent_locations(dtype):
    """The four outputs that read the pixel are infinite, of the weight's sign, and none is NaN."""
    case, tensors = infinite_pixel(dtype)
    output = run(case, HostKernels(sanitize=False), tensors)[0]
    assert not output.isnan().any()
    near = torch.zeros(5, 5, dtype=torch.bool)
    near[:2, :2] = True
    assert torch.equal(output.isinf(), near.expand(8, 5, 5))
    assert torch.equal(output[:, 0, 0] > 0, tensors["weight"][:, 3, 0, 0] > 0)


def infinite_channel(dtype):
    """One tap, two offset groups: a pixel infinite in the second one's last channel, read as `infinite_pixel`'s."""
    case = Case(
        batch=1, channels=16, filters=8, offset_groups=2, height=5, width=5, kernel=(1, 1), padding=(0, 0), dtype=dtype
    )
    tensors = tensors_of(case)
    tensors["offset"][:, :2], tensors["offset"][:, 2:] = 0, -0.5
    tensors["input"][0, 15, 2, 2] = torch.inf
    return case, tensors


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan")], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_fused_nonfinite_factors_equal_the_reference(value, dtype):
    """NaN and infinity in mask or weight give the reference's values."""
    case = factor_everywhere(value, dtype)
    output = run(case, HostKernels(sanitize=False), case.tensors())
    assert_alike({"output": output}, by_reference_of(case), ("output",), 3e-2 if dtype == torch.bfloat16 else 4e-3)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_an_infinite_factor_gives_no_nan_in_padded_channels(dtype):
    """Channels that fill no slice are padded with zeros; infinity times zero must not enter."""
    case = infinite_factor_at_the_border(dtype)
    output = run(case, HostKernels(sanitize=False), case.tensors() | {"bias": None})
    assert (output[0, :, 0, 0] == torch.inf).all()
    assert output[..., 1:].isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_an_infinite_channel_stays_in_its_offset_group(dtype):
    """Only the locations of the channel's own offset group read it; the others stay finite."""
    case, tensors = infinite_channel(dtype)
    output = run(case, HostKernels(sanitize=False), tensors)[0]
    assert not output.isnan().any()
    there = torch.zeros(5, 5, dtype=torch.bool)
    there[2:4, 2:4] = True
    assert torch.equal(output.isinf(), there.expand(8, 5, 5))


@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        (Case(channels=8, filters=8), torch.float64),
        (Case(channels=16, filters=16, groups=2), torch.float16),
        (Case(channels=12, filters=8), torch.float16),
        (Case(channels=16, filters=8, offset_groups=4), torch.float16),
        (Case(channels=8, filters=12), torch.float16),
        (Case(batch=0, channels=8, filters=8), torch.float16),
    ],
    ids=["float64", "groups", "channels", "offset groups", "filters", "empty"],
)
def test_cases_the_fused_kernel_lacks_use_chunks(case, dtype):
    """Even where it is forced, float64, groups, odd channels and empty batches run in chunks."""
    case, kernels = Case(**{**vars(case), "dtype": dtype}), HostKernels(sanitize=False)
    cuda.forward(case.arguments(), kernels)
    assert "fused" not in kernels.launched


def test_strict_float32_uses_chunks():
    """The fused kernel computes float32 in TF32, which ieee precision forbids."""
    torch.backends.cudnn.conv.fp32_precision = "ieee"
    case = Case(channels=8, filters=8, dtype=torch.float32)
    with pytest.raises(AssertionError, match="sample"):
        run(case, HostKernels(sanitize=False))


def test_strided_and_channels_last_arguments_give_equal_bits():
    """The layout of each argument has no influence on the output."""
    case = Case(channels=16, filters=16, dtype=torch.bfloat16)
    tensors = tensors_of(case)
    expected = run(case, HostKernels(sanitize=False), tensors)
    for name in ("input", "weight"):
        tensors[name] = tensors[name].contiguous(memory_format=torch.channels_last)
    assert torch.equal(run(case, HostKernels(sanitize=False), tensors), expected)
    tensors["bias"] = tensors["bias"].repeat_interleave(2)[::2]
    tensors["weight"] = tensors["weight"].repeat_interleave(2, 0)[::2]
    assert torch.equal(run(case, HostKernels(sanitize=False), tensors), expected)


def test_the_larger_tile_needs_a_full_gpu_and_its_filters():
    """Tiles of 128 pixels are taken from 128x128 pixels and 128 filters, unless loads are wide."""

    def tile(pixels, filters, wide=False):
        geometry = ConvGeometry(
            1, 64, pixels, 1, filters, pixels, 1, (3, 3), (1, 1), (1, 1), (1, 1), groups=1, offset_groups=1
        )
        return fused.tile_of(geometry, wide)

    assert tile(128 * 128, 128) == 128
    assert tile(127 * 128, 128) == 64
    assert tile(64 * 128, 256) == 128
    assert tile(128 * 1024, 64) == 64
    assert tile(128 * 128, 128, wide=True) == 64


# ---- What these tests would notice: each fault, put into the kernel's text, has to show. ----

FAULTS = {
    "rows and packs of the columns' fragments change places": (
        "first_row + strip * 16 + lane % 16, 2 * part + lane / 16",
        "first_row + strip * 16 + lane / 16 * 8 + lane % 8, 2 * part + lane / 8 % 2",
    ),
    "rows and packs of the filters' fragments change places": (
        "lane / 16 * 8 + lane % 8;\n        load_matrices(found, &filters[swizzled(row, 2 * part + lane / 8 % 2)])",
        "lane % 16;\n        load_matrices(found, &filters[swizzled(row, 2 * part + lane / 16)])",
    ),
    "rows and columns of the sums change places": ("half % 2 * 2 + i]", "half % 2 + i * 2]"),
    "filters lie unswizzled": ("copy_async(&to[swizzled(row, pack)]", "copy_async(&to[row * PACKS + pack]"),
    "no barrier before the first places are read": (
        "[thread]);\n    }\n    __syncthreads();\n    for (int step",
        "[thread]);\n    }\n    for (int step",
    ),
    "no barrier between sampling and multiplying": (
        "        __syncthreads();\n        if (!samples)",
        "        if (!samples)",
    ),
    "no barrier before the staged output is read": (
        "__syncthreads();\n    for (int i = threadIdx.x;",
        "for (int i = threadIdx.x;",
    ),
    "no wait for the filters": ("        wait_for_copies();\n", ""),
    "a wait after the barrier instead of before it": (
        "wait_for_copies();\n        __syncthreads();",
        "__syncthreads();\n        wait_for_copies();",
    ),
    "one set of places": ("n.places ^= 1;", ""),
    "one set of columns": ("from = shared.columns[1 - step % 2]", "from = shared.columns[step % 2]"),
    "filters beyond the last are read": ("first + row < count &&", ""),
    "channels beyond the offset group are read": ("channel, channel < channels)", "channel, true)"),
    "pixels beyond the last are written": ("first_pixel + row < pixels &&", ""),
    "an offset group reads at another's places": ("slice.tap, slice.offset_group); };", "slice.tap, 0); };"),
    "the mask is left out": ("c.bits ? shift.scale : real(0)", "c.bits ? real(1) : real(0)"),
    "the bias is left out": ("[half % 2 * 2 + i] + add[i]", "[half % 2 * 2 + i]"),
}

STRAYS = {
    "filters beyond the last are read",
    "channels beyond the offset group are read",
    "pixels beyond the last are written",
}
"""Those that only a sanitizer sees: the numbers come out right, unless what lies beyond the array is not a number."""


class Faulty(HostKernels):
    """Host kernels of a text in which `right` has been replaced."""

    def __init__(self, right, wrong, **options):
        super().__init__(**options)
        self.right, self.wrong = right, wrong

    def __call__(self, source_file, prelude):
        text = source_text(source_file, prelude)
        assert text.count(self.right) == 1, f"the kernel has no such line, or several: {self.right}"
        return HostModule(text.replace(self.right, self.wrong), self.order, self.seed, self.sanitize, self.launched)


@pytest.mark.parametrize("fault", FAULTS)
def test_injected_kernel_faults_are_detected(fault):
    """Control of the tests: each changed line of the kernel gives a wrong value or a sanitizer's error."""
    case = Case(channels=48, filters=24, offset_groups=2, height=6, width=7, dtype=torch.float16)
    tensors = tensors_of(case)
    expected = by_reference(case, tensors)
    allowed = bound(case, tensors, expected)
    outputs = []
    for order in ORDERS:
        kernels = Faulty(*FAULTS[fault], order=order, sanitize=fault in STRAYS)
        if fault in STRAYS:
            with pytest.raises(HostKernelError, match="heap-buffer-overflow"):
                run(case, kernels, tensors)
            return
        outputs.append(run(case, kernels, tensors))
    wrong = any(not ((output.double() - expected).abs() <= allowed).all() for output in outputs)
    assert wrong or not all(torch.equal(output, outputs[0]) for output in outputs)


def test_a_missing_channel_guard_gives_nan():
    """Control of the test: without the guard, padded channels multiply zero by infinity."""
    case = infinite_factor_at_the_border(torch.float16)
    right, never = "blend(corner, place, factor, channel < channels)", "blend(corner, place, factor, true)"
    wrong = Faulty(right, never, sanitize=False)
    assert run(case, wrong, case.tensors() | {"bias": None}).isnan().any()


def test_reading_off_the_map_gives_nan():
    """Control of the test: a corner read off the map brings its infinity in."""
    case, tensors = infinite_pixel(torch.float16)
    wrong = Faulty("reads ? (map + c.pixel[k])", "exists ? (map + c.pixel[k])", sanitize=False)
    assert run(case, wrong, tensors).isnan().any()
