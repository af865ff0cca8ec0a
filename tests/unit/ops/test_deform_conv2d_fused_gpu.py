"""The fused kernel of deformable convolution on a CUDA GPU: `pytest -m gpu`."""

import pytest
import torch
from conv_cases import NAMES, Case, by_reference
from tester import assert_near

from dcnlab.ops import deform_conv2d
from dcnlab.ops.cuda import fused

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0),
        reason="there is no CUDA GPU of compute capability 8.0 or more",
    ),
]
HALVES = [torch.float16, torch.bfloat16]
CASES = {
    "64x64 tiles": Case(batch=3, channels=72, filters=40, height=19, width=23, modulated=True, biased=True),
    "128x128 tiles": Case(batch=8, channels=64, filters=200, height=61, width=67, reach=4.0),
    "offset groups": Case(channels=272, filters=128, height=21, width=17, offset_groups=2, modulated=True),
    "strides and dilation": Case(
        channels=32, filters=64, height=40, width=31, kernel=(2, 5), stride=(2, 3), padding=(3, 1), dilation=(3, 2)
    ),
    "far offsets": Case(channels=64, filters=64, height=31, width=33, reach=40.0, biased=True),
}


@pytest.fixture(autouse=True)
def _tf32():
    before = torch.backends.cudnn.conv.fp32_precision
    torch.backends.cudnn.conv.fp32_precision = "tf32"
    yield
    torch.backends.cudnn.conv.fp32_precision = before


@pytest.fixture
def forward(monkeypatch):
    """The public operator by one of both ways; which one was taken is checked."""
    tiles = []
    launched = fused.tile_of
    monkeypatch.setattr(fused, "tile_of", lambda *args: tiles.append(launched(*args)) or tiles[-1])

    def run(case, way, tensors=None):
        tensors = tensors or [t if t is None else t.cuda() for t in (case.tensors()[name] for name in NAMES)]
        input, offset, mask, weight, bias = tensors
        monkeypatch.setenv("DCNLAB_FUSED", way)
        tiles.clear()
        output = deform_conv2d(input, offset, weight, bias, case.stride, case.padding, case.dilation, mask)
        assert bool(tiles) == (way == "always")
        run.tiles = list(tiles)
        return output

    return run


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_fused_equals_the_reference_and_the_chunks(name, dtype, forward):
    case = Case(**{**vars(CASES[name]), "dtype": dtype})
    output = forward(case, "always")
    assert forward.tiles == [128 if name == "128x128 tiles" else 64]
    assert_near({"output": output}, {"output": by_reference(case)["output"]}, case)
    assert_near({"output": output}, {"output": forward(case, "never")}, case)


@pytest.mark.parametrize("name", CASES)
def test_float32_in_tf32_equals_the_reference_to_its_bits(name, forward):
    """TF32 keeps 10 bits: the tolerance is 2e-3."""
    case = Case(**{**vars(CASES[name]), "dtype": torch.float32})
    expected = {"output": by_reference(case)["output"]}
    assert_near({"output": forward(case, "always")}, expected, case, tolerance=2e-3)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_64_bit_indices_give_what_32_bit_ones_give(dtype, forward, monkeypatch):
    """INT_MAX is set to 0, so that small maps use the kernel for large ones."""
    case = Case(channels=48, filters=24, height=20, width=20, offset_groups=2, modulated=True, dtype=dtype)
    narrow = forward(case, "always")
    monkeypatch.setattr(fused, "INT_MAX", 0)
    assert torch.equal(forward(case, "always"), narrow)


@pytest.mark.parametrize("place", [float("nan"), float("inf"), 1e20], ids=str)
def test_a_nonfinite_location_reads_zero_there_only(place, forward):
    """A NaN, infinite or huge offset gives 0 at its location; all other outputs stay bit for bit."""
    case = Case(channels=64, filters=64, kernel=(1, 1), padding=(0, 0), dtype=torch.bfloat16)
    tensors = [t if t is None else t.cuda() for t in (case.tensors()[name] for name in NAMES)]
    expected = forward(case, "always", tensors).clone()
    expected[0, :, 3, 4] = 0
    tensors[1][0, 0, 3, 4] = place
    assert torch.equal(forward(case, "always", tensors), expected)


def test_twenty_runs_give_the_same_bits(forward):
    case = Case(batch=4, channels=128, filters=128, height=64, width=64, reach=6.0, dtype=torch.bfloat16)
    first = forward(case, "always")
    assert forward.tiles == [128]
    for _ in range(20):
        assert torch.equal(forward(case, "always"), first)
