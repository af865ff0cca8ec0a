"""Deformable convolution on a CUDA GPU: `pytest -m gpu`. The host-run tests hold the same code where there is none."""

import pytest
import torch
import torchvision
from conv_cases import NAMES, Case, by_autograd, by_reference, random_case
from tester import assert_near

from dcnlab.ops import deform_conv2d

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU"),
]
HAS_TF32 = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture(autouse=True)
def _strict_float32_in_chunks(monkeypatch):
    """The fused kernel has tests of its own; here half precision goes through the chunks too."""
    monkeypatch.setenv("DCNLAB_FUSED", "never")
    before = torch.backends.cudnn.conv.fp32_precision
    torch.backends.cudnn.conv.fp32_precision = "ieee"
    yield
    torch.backends.cudnn.conv.fp32_precision = before


def on_gpu(case: Case):
    return by_autograd(deform_conv2d, case, device="cuda")


def cuda_tensors(case: Case) -> list[torch.Tensor | None]:
    tensors = case.tensors()
    return [None if tensors[name] is None else tensors[name].cuda() for name in NAMES]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("seed", range(40))
def test_equals_the_reference_in_every_dtype(seed, dtype):
    case = random_case(seed, dtype=dtype)
    assert_near(on_gpu(case), by_reference(case), case)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", [64, 72, 288])
def test_sixteen_byte_loads_equal_the_reference(channels, dtype):
    case = Case(
        batch=3, channels=channels, filters=32, height=19, width=23, offset_groups=2, dtype=dtype, modulated=True
    )
    assert_near(on_gpu(case), by_reference(case), case)


def test_an_image_cut_into_chunks_equals_torchvision():
    """256 channels on 61x67 positions exceed the memory budget of one chunk."""
    case = Case(batch=2, channels=256, filters=64, height=61, width=67, dtype=torch.float32, reach=3.0)
    assert_near(on_gpu(case), by_autograd(torchvision.ops.deform_conv2d, case, device="cuda"), case, tolerance=1e-4)


def test_gradcheck_on_the_gpu():
    case = Case(batch=1, filters=2, height=4, width=5, groups=2, offset_groups=2, modulated=True, biased=True)
    leaves = [tensor.requires_grad_() for tensor in cuda_tensors(case)]
    assert torch.autograd.gradcheck(lambda i, o, m, w, b: deform_conv2d(i, o, w, b, padding=1, mask=m), leaves)


def test_opcheck_on_the_gpu():
    input, offset, mask, weight, bias = cuda_tensors(Case(modulated=True, biased=True))
    pairs = ([1, 1], [1, 1], [1, 1])
    torch.library.opcheck(torch.ops.dcnlab.deform_conv2d.default, (input, offset, weight, bias, *pairs, mask))
    args = (Case().grad().cuda(), input, offset, weight, bias, *pairs, mask, [True] * 5)
    torch.library.opcheck(torch.ops.dcnlab.deform_conv2d_backward.default, args)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_autocast_gives_its_dtype_near_the_reference(dtype):
    """On the GPU the output is float16 or bfloat16, within 3% of the reference."""
    case = Case(channels=16, dtype=torch.float32, modulated=True, biased=True)
    with torch.autocast("cuda", dtype=dtype):
        found = on_gpu(case)
    assert found["output"].dtype == dtype
    assert_near(found, by_reference(case), case, tolerance=0.03)


@pytest.mark.skipif(not HAS_TF32, reason="there is no CUDA GPU of compute capability 8.0 or more, which has TF32")
def test_tf32_follows_the_switch_for_convolutions():
    """cudnn's setting for convolutions decides, and that for matrix products is left alone."""
    case = Case(channels=64, filters=64, height=33, width=33, dtype=torch.float32)
    args = [t for t in cuda_tensors(case) if t is not None]
    strict = deform_conv2d(args[0], args[1], args[2], padding=1)
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cudnn.conv.fp32_precision = "tf32"
    fast = deform_conv2d(args[0], args[1], args[2], padding=1)
    assert torch.backends.cuda.matmul.fp32_precision == before
    error = (fast - strict).abs().max() / strict.abs().max()
    assert 1e-5 < error < 1e-2


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_memory_layouts_give_the_same_result(layout):
    input, offset, _, weight, _ = cuda_tensors(Case(channels=16, dtype=torch.float32))
    output = deform_conv2d(input.contiguous(memory_format=layout), offset, weight, padding=1)
    assert output.is_contiguous(memory_format=layout)
    torch.testing.assert_close(output, deform_conv2d(input, offset, weight, padding=1), rtol=0, atol=0)


def test_inductor_compiles_forward_and_backward_into_one_graph():
    case = Case(channels=16, dtype=torch.float32, modulated=True, biased=True)
    compiled = torch.compile(lambda *args, **sizes: deform_conv2d(*args, **sizes) * 1.0, fullgraph=True)
    assert_near(by_autograd(compiled, case, device="cuda"), by_reference(case), case)


def test_a_cuda_graph_replays_forward_and_backward_on_new_values():
    """Captured once, replayed with other inputs, offsets, weights and gradients."""
    case, other = Case(channels=16, dtype=torch.float32), Case(channels=16, dtype=torch.float32, seed=5)
    input, offset, _, weight, _ = cuda_tensors(case)
    leaves = [t.requires_grad_() for t in (input, offset, weight)]
    grad = case.grad().cuda()

    def step() -> list[torch.Tensor]:
        output = deform_conv2d(*leaves, padding=1)
        return [output, *torch.autograd.grad(output, leaves, grad)]

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        for leaf, value in zip(leaves, (t for t in cuda_tensors(other) if t is not None), strict=True):
            leaf.copy_(value)
        grad.copy_(other.grad())
    graph.replay()
    expected = by_reference(other)
    found = dict(zip(("output", "input", "offset", "weight"), captured, strict=True))
    assert_near(found, {name: expected[name] for name in found}, other)


def test_a_side_stream_waits_for_torchs_work():
    """A long sleep on the stream: the kernels must not start before the product."""
    case = Case(batch=8, channels=64, filters=64, height=40, width=40, dtype=torch.float32)
    input, offset, _, weight, _ = cuda_tensors(case)
    expected = deform_conv2d(input * 3, offset, weight, padding=1)
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)
        found = deform_conv2d(input * 3, offset, weight, padding=1)
    stream.synchronize()
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one GPU only")
def test_a_second_gpu_computes_on_its_own_memory():
    case = Case(dtype=torch.float32, modulated=True)
    assert_near(by_autograd(deform_conv2d, case, device="cuda:1"), by_reference(case), case)


@pytest.mark.parametrize("place", [float("nan"), float("inf"), 1e20], ids=str)
def test_a_nonfinite_location_reads_zero_there_only(place):
    """A NaN, infinite or huge offset gives 0 at its location and changes no other output."""
    input, offset, _, weight, _ = cuda_tensors(Case(kernel=(1, 1), padding=(0, 0), dtype=torch.float32))
    expected = deform_conv2d(input, offset, weight)
    expected[0, :, 3, 4] = 0
    offset[0, 0, 3, 4] = place
    torch.testing.assert_close(deform_conv2d(input, offset, weight), expected)


def test_twenty_runs_give_the_same_bits():
    case = Case(batch=4, channels=64, filters=64, height=38, width=63, reach=6.0, dtype=torch.float32, modulated=True)
    first = on_gpu(case)
    for _ in range(20):
        for name, value in on_gpu(case).items():
            assert value is None or torch.equal(value, first[name]), name


@pytest.mark.slow
def test_more_than_2_to_the_31_elements_are_reached():
    """The last image of a 4 GiB batch is read and written with 64-bit indices."""
    # 2^31 + 2^21 elements in half precision, 4 GiB: the last image must be read and written as if it were alone.
    batch, channels, size = 1025, 32, 256
    input = torch.zeros(batch, channels, size, size, dtype=torch.float16, device="cuda")
    input[-1].normal_()
    offset = torch.zeros(batch, 2, size, size, device="cuda")
    offset[-1].uniform_(-3, 3)
    weight = torch.randn(8, channels, 1, 1, dtype=torch.float16, device="cuda")
    assert input.numel() > 2**31
    output = deform_conv2d(input, offset, weight)
    assert not output[0].any()
    alone = deform_conv2d(input[-1:].clone(), offset[-1:].clone(), weight)
    torch.testing.assert_close(output[-1:], alone)
