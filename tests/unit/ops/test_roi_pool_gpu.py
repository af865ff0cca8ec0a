"""Both RoI poolings on a CUDA GPU: `pytest -m gpu`. The host-run tests hold the same code where there is none."""

import pytest
import torch
import torchvision
from roi_cases import FUNCTIONS, NAMES, RULES, Case, by_autograd, by_reference, random_case
from tester import Results, assert_near

from dcnlab.ops import deform_ps_roi_pool, deform_roi_pool

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU"),
    pytest.mark.parametrize("rule", RULES),
]
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def on_gpu(case: Case) -> Results:
    return by_autograd(FUNCTIONS[case.rule], case, device="cuda")


def cuda_tensors(case: Case) -> list[torch.Tensor | None]:
    tensors = case.tensors()
    return [None if tensors[name] is None else tensors[name].cuda() for name in NAMES]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("seed", range(40))
def test_random_boxes_equal_the_reference_in_every_dtype(seed, dtype, rule):
    case = random_case(seed, rule, dtype=dtype)
    assert_near(on_gpu(case), by_reference(case), case)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", [64, 72, 288])
def test_sixteen_byte_loads_equal_the_reference(channels, dtype, rule):
    case = Case(rule, 3, channels, 19, 23, rois=40, out_size=(7, 7), part=7, dtype=dtype)
    assert_near(on_gpu(case), by_reference(case), case)


def test_boxes_of_a_detectors_size_equal_the_reference(rule):
    """100 RoIs on a map of 38x63, as in R-FCN and Faster R-CNN."""
    if rule == "ps":  # R-FCN's class scores: one channel a class, 49 group cells
        case = Case(rule, 1, 21, 38, 63, 100, (7, 7), 7, 7, 21, 4, 0.0613)
    else:
        case = Case(rule, 1, 64, 38, 63, 100, (7, 7), samples=0, scale=0.0613)
    expected = by_reference(case)
    assert_near(on_gpu(case), expected, case)
    # Of a million samples in float32, a few lie within rounding of a kink or of the border, where the result jumps.
    case.dtype = torch.float32
    for name, value in on_gpu(case).items():
        off = (value.cpu() - expected[name]).abs() > 1e-4 * expected[name].abs().max()
        assert off.double().mean() < 1e-3, name


def test_aligned_pooling_without_offsets_is_roi_align(rule):
    """200 boxes on 64 channels equal torchvision's roi_align on the GPU."""
    case = Case("aligned", 1, 64, 38, 63, 200, (7, 7), samples=2, shifted=False, dtype=torch.float32)
    input, boxes, _ = cuda_tensors(case)
    boxes[:, 0] = 0
    expected = torchvision.ops.roi_align(input, boxes, 7, case.scale, 2, aligned=True)
    torch.testing.assert_close(deform_roi_pool(input, boxes, None, 7, case.scale, 2), expected, rtol=1e-4, atol=1e-4)


def test_gradcheck_on_the_gpu(rule):
    case = Case(rule, 1, 2, 5, 6, 2, (2, 2), part=2)
    input, _, offset = cuda_tensors(case)
    boxes = torch.tensor([[0, -1.0, 2, 18, 15], [0, 7, 3, 26, 23]], dtype=torch.float64, device="cuda")
    leaves = input.requires_grad_(), offset.requires_grad_()
    assert torch.autograd.gradcheck(lambda i, o: FUNCTIONS[rule](i, boxes, o, **case.sizes()), leaves)


def test_opcheck_on_the_gpu(rule):
    case = Case(rule)
    tensors, grad = cuda_tensors(case), case.grad().cuda()
    if rule == "ps":
        sizes = (3, case.scale, case.group, case.part, case.samples, case.gamma)
        forward, backward = torch.ops.dcnlab.deform_ps_roi_pool, torch.ops.dcnlab.deform_ps_roi_pool_backward
    else:
        sizes = ([3, 3], case.scale, case.samples, case.gamma)
        forward, backward = torch.ops.dcnlab.deform_roi_pool, torch.ops.dcnlab.deform_roi_pool_backward
    torch.library.opcheck(forward.default, (*tensors, *sizes))
    torch.library.opcheck(backward.default, (grad, *tensors, *sizes, [True, True]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_autocast_gives_its_dtype_near_the_reference(dtype, rule):
    """On the GPU the output is float16 or bfloat16, within 3% of the reference."""
    case = Case(rule, channels=16, dtype=torch.float32)
    with torch.autocast("cuda", dtype=dtype):
        found = on_gpu(case)
    assert found["output"].dtype == dtype
    assert_near(found, by_reference(case), case, tolerance=0.03)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_memory_layouts_give_the_same_result(layout, rule):
    case = Case(rule, channels=16, dtype=torch.float32)
    input, boxes, offset = cuda_tensors(case)
    output = FUNCTIONS[rule](input.contiguous(memory_format=layout), boxes, offset, **case.sizes())
    assert output.is_contiguous(memory_format=layout)
    expected = FUNCTIONS[rule](input, boxes, offset, **case.sizes())
    torch.testing.assert_close(output, expected, rtol=0, atol=0)


def test_inductor_compiles_forward_and_backward_into_one_graph(rule):
    case = Case(rule, channels=16, group=2 if rule == "ps" else 1, dtype=torch.float32)
    torch._dynamo.reset()
    compiled = torch.compile(lambda *args, **sizes: FUNCTIONS[rule](*args, **sizes) * 1.0, fullgraph=True)
    assert_near(by_autograd(compiled, case, device="cuda"), by_reference(case), case)


def test_a_cuda_graph_replays_with_other_sample_counts(rule):
    """New boxes with other numbers of samples give right values: no count is fixed at capture."""
    samples = 2 if rule == "ps" else 0
    case, other = (Case(rule, channels=16, samples=samples, dtype=torch.float32, seed=seed) for seed in (0, 5))
    input, boxes, offset = cuda_tensors(case)
    leaves = [input.requires_grad_(), offset.requires_grad_()]
    grad = case.grad().cuda()

    def step() -> list[torch.Tensor]:
        output = FUNCTIONS[rule](leaves[0], boxes, leaves[1], **case.sizes())
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
        for tensor, value in zip((leaves[0], boxes, leaves[1]), cuda_tensors(other), strict=True):
            tensor.copy_(value)
        grad.copy_(other.grad())
    graph.replay()
    assert_near(dict(zip(("output", "input", "offset"), captured, strict=True)), by_reference(other), other)


def test_a_side_stream_waits_for_torchs_work(rule):
    """A long sleep on the stream: the kernels must not start before the product."""
    case = Case(rule, 4, 64, 40, 40, rois=50, dtype=torch.float32)
    input, boxes, offset = cuda_tensors(case)
    expected = FUNCTIONS[rule](input * 3, boxes, offset, **case.sizes())
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)
        found = FUNCTIONS[rule](input * 3, boxes, offset, **case.sizes())
    stream.synchronize()
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one GPU only")
def test_a_second_gpu_computes_on_its_own_memory(rule):
    case = Case(rule, dtype=torch.float32)
    assert_near(by_autograd(FUNCTIONS[rule], case, device="cuda:1"), by_reference(case), case)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e20], ids=str)
def test_a_nonfinite_location_reads_zero_there_only(value, rule):
    """NaN, infinite or huge offsets and boxes give 0 in their own bins and change no others."""
    case = Case(rule, dtype=torch.float32)
    input, boxes, offset = cuda_tensors(case)
    boxes[:] = torch.tensor([0, 3.0, 4, 23, 20])
    expected = FUNCTIONS[rule](input, boxes, offset, **case.sizes())
    offset[0, 1, 1, 2], boxes[2, 0], boxes[3, 1] = value, value, value
    expected[0, :, 1, 2], expected[2:4] = 0, 0
    torch.testing.assert_close(FUNCTIONS[rule](input, boxes, offset, **case.sizes()), expected)


def test_twenty_runs_give_the_same_bits(rule):
    case = Case(rule, 2, 64, 38, 63, rois=200, out_size=(7, 7), part=7, dtype=torch.float32)
    first = on_gpu(case)
    for _ in range(20):
        for name, value in on_gpu(case).items():
            assert torch.equal(value, first[name]), name


@pytest.mark.slow
def test_more_than_2_to_the_31_elements_are_reached(rule):
    """The last image of a 4 GiB batch is read with 64-bit indices."""
    # 2^31 + 2^21 elements in half precision, 4 GiB: the last image must be read and written as if it were alone.
    batch, channels, size = 1025, 32, 256
    input = torch.zeros(batch, channels, size, size, dtype=torch.float16, device="cuda")
    input[-1].normal_()
    assert input.numel() > 2**31
    boxes = torch.tensor([[batch - 1.0, 3, 5, 200, 180], [0, 3, 5, 200, 180]], device="cuda")
    pool = deform_ps_roi_pool if rule == "ps" else deform_roi_pool
    output = pool(input.requires_grad_(), boxes)
    assert not output[1].any()
    alone = input.detach()[-1:].clone().requires_grad_()
    expected = pool(alone, boxes[:1] * boxes.new_tensor([0, 1, 1, 1, 1]))
    torch.testing.assert_close(output[:1], expected)
    output[:1].sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(input.grad[-1:], alone.grad)
