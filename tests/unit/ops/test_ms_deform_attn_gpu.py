"""Multi-scale deformable attention on a CUDA GPU: `pytest -m gpu`. The host-run tests hold the same code elsewhere."""

import pytest
import torch
from attn_cases import LEAVES, Case, by_autograd, by_reference, random_case
from tester import assert_near

from dcnlab.ops import ms_deform_attn

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU"),
]
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
LARGE = {"heads": 8, "channels": 32, "height": 40, "width": 50, "levels": 4, "queries": 300, "points": 4}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_random_cases_equal_the_reference_in_every_dtype(dtype):
    """Output and all gradients of 40 random cases."""
    for seed in range(40):
        case = random_case(seed, dtype=dtype)
        assert_near(by_autograd(ms_deform_attn, case, "cuda"), by_reference(case), case)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", [32, 72])
def test_sixteen_byte_loads_equal_the_reference(channels, dtype):
    """Output and all gradients of a large case, whose heads have a multiple of eight channels."""
    case = Case(**(LARGE | {"channels": channels}), dtype=dtype)
    assert_near(by_autograd(ms_deform_attn, case, "cuda"), by_reference(case), case)


def test_twenty_runs_give_the_same_bits():
    """No sum depends on the order in which threads come."""
    case = Case(**LARGE, dtype=torch.float32)
    first = by_autograd(ms_deform_attn, case, "cuda")
    for _ in range(20):
        for name, value in by_autograd(ms_deform_attn, case, "cuda").items():
            assert torch.equal(value, first[name]), name


@pytest.mark.parametrize("shapes_on", ["cpu", "cuda"])
def test_no_call_waits_for_the_gpu(shapes_on):
    """torch raises where something synchronises; shapes may lie on the GPU or on the CPU."""
    case = Case(**LARGE, dtype=torch.float32)
    tensors = {name: tensor.cuda() for name, tensor in case.tensors().items()}
    for name in ("spatial_shapes", "level_start_index"):
        tensors[name] = tensors[name].to(shapes_on)
    leaves = [tensors[name].requires_grad_() for name in LEAVES]
    grad = case.grad().cuda()
    torch.autograd.grad(ms_deform_attn(*tensors.values()), leaves, grad)  # compiles and loads the kernels
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        torch.autograd.grad(ms_deform_attn(*tensors.values()), leaves, grad)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_captured_graph_replays_other_values():
    """Forward and backward in a CUDA graph, replayed with another case's numbers."""
    case, other = (Case(**LARGE, dtype=torch.float32, seed=seed) for seed in (0, 5))
    tensors = {name: tensor.cuda() for name, tensor in case.tensors().items()}
    leaves, grad = [tensors[name].requires_grad_() for name in LEAVES], case.grad().cuda()

    def step():
        output = ms_deform_attn(*tensors.values())
        return [output, *torch.autograd.grad(output, leaves, grad)]

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        for name, value in other.tensors().items():
            tensors[name].copy_(value)
        grad.copy_(other.grad())
    graph.replay()
    assert_near(dict(zip(("output", *LEAVES), captured, strict=True)), by_reference(other), other)
