"""torch.compile and torch.export of operators, layers and a network: one graph in every dtype, the same results."""

import pytest
import roi_cases
import torch
import torchvision
from functorch.compile import make_boxed_func
from op_cases import DTYPES, OPERATORS
from tester import TOLERANCES, assert_near
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd

from dcnlab.nn import (
    ActiveConv2d,
    DeformConv2d,
    DeformPSRoIPool,
    DeformRoIPool,
    MSDeformAttn,
    SpatialTransformer,
)
from dcnlab.surgery import deform

BOXES = torch.tensor([[0, 1.0, 2.0, 6.0, 7.0], [1, 0.0, 0.0, 4.0, 5.0]])


class Pooled(nn.Module):
    """A pooling layer of one argument, so that all layers are called alike."""

    def __init__(self, pool: nn.Module, *maps: int) -> None:
        super().__init__()
        self.pool, self.maps = pool, maps

    def forward(self, input: Tensor) -> Tensor:
        scores = [input.repeat(1, times, 1, 1) for times in self.maps]
        output: Tensor = self.pool(input, *scores, BOXES)
        return output


class Attended(nn.Module):
    """Multi-scale deformable attention of each pixel of a map of 14x16, and of its mean of 2x2 pixels, to both."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = MSDeformAttn(4, 2, 2, 2)
        nn.init.normal_(self.attention.sampling_offsets.weight)
        self.references = torch.rand(2, 280, 2, 2, generator=torch.Generator().manual_seed(0))

    def forward(self, input: Tensor) -> Tensor:
        levels = [input, nn.functional.avg_pool2d(input, 2)]
        pixels = torch.cat([level.flatten(2).mT for level in levels], 1)
        shapes = [(level.shape[2], level.shape[3]) for level in levels]
        output: Tensor = self.attention(pixels, self.references, pixels, shapes, [0, 224])
        return output


LAYERS = {
    "DeformConv2d": lambda: DeformConv2d(4, 6, 3, padding=1),
    "modulated DeformConv2d": lambda: DeformConv2d(4, 6, 3, padding=1, modulated=True, offset_groups=2),
    "ActiveConv2d": lambda: ActiveConv2d(4, 6, 3, padding=1),
    "DeformRoIPool": lambda: Pooled(DeformRoIPool(4, 3)),
    "DeformPSRoIPool": lambda: Pooled(DeformPSRoIPool(4, output_size=2), 2),
    "SpatialTransformer": lambda: SpatialTransformer(4),
    "MSDeformAttn": Attended,
}


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("dtype", "dynamic"),
    [*((dtype, None) for dtype in DTYPES), (torch.float32, True)],
    ids=lambda value: {None: "static", True: "dynamic"}.get(value, str(value)),
)
@pytest.mark.parametrize("autocast", [False, True], ids=["", "autocast"])
@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_and_its_backward_compile_into_one_graph(name, dtype, autocast, dynamic):
    """aot_eager with fullgraph gives the reference's values, with autocast and dynamic shapes."""
    operator = OPERATORS[name]
    case = operator.case(dtype)
    compiled = torch.compile(operator.function, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        found = operator.by_autograd(compiled, case)
    narrow = autocast and dtype != torch.float64
    assert found["output"].dtype == (torch.bfloat16 if narrow else dtype)
    assert found[operator.features].dtype == dtype
    assert_near(found, operator.by_reference(case), case, TOLERANCES[torch.bfloat16] if narrow else None)


@pytest.mark.parametrize("name", OPERATORS)
def test_a_compiled_operator_accepts_other_sizes(name):
    """With dynamic=True, heights 7, 9 and 12 give the reference's values."""
    operator = OPERATORS[name]
    compiled = torch.compile(operator.function, fullgraph=True, backend="aot_eager", dynamic=True)
    for height in (7, 9, 12):
        case = operator.case(torch.float32, height=height)
        assert_near(operator.by_autograd(compiled, case), operator.by_reference(case), case)


@pytest.mark.parametrize("autocast", [False, True], ids=["", "autocast"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", OPERATORS)
def test_a_compiled_graph_holds_the_operator_and_no_wrapper(name, dtype, autocast):
    """Forward and backward graph hold one node of ours each; autocast, bias and boxes add casts, a sum, a detach."""
    graphs: list[list[str]] = []

    def noted(module, inputs):
        nodes = [str(node.target) for node in module.graph.nodes if node.op == "call_function"]
        graphs.append([target for target in nodes if "getitem" not in target])
        return make_boxed_func(module.forward)

    operator = OPERATORS[name]
    backend = aot_autograd(fw_compiler=noted, bw_compiler=noted)
    compiled = torch.compile(operator.function, fullgraph=True, backend=backend)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        operator.by_autograd(compiled, operator.case(dtype))
    forward, backward = graphs
    casts = "aten._to_copy.default" if autocast and dtype == torch.float32 else None
    others = (casts, "aten.detach.default" if "pool" in name else None)
    assert [target for target in forward if target not in others] == [f"dcnlab.{name}.default"]
    assert [target for target in backward if target not in (casts, "aten.sum.dim_IntList")] == [
        f"dcnlab.{name}_backward.default"
    ]
    assert (casts in forward) == (casts is not None)


@pytest.mark.parametrize("rule", roi_cases.RULES)
def test_a_compiled_pooling_takes_a_list_of_boxes(rule):
    case = roi_cases.Case(rule, shifted=False, dtype=torch.float32)
    input, boxes, _ = case.tensors().values()
    parts = [boxes[:2, 1:], boxes[2:, 1:]]
    pool = roi_cases.FUNCTIONS[rule]
    compiled = torch.compile(pool, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(input, parts, **case.sizes()), pool(input, parts, **case.sizes()))


@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, torch.float32) for name in OPERATORS), ("deform_conv2d", torch.bfloat16)],
    ids=str,
)
def test_inductor_compiles_an_operator_between_others(name, dtype):
    """The default backend gives the reference's output and gradients; the operator gets the strides of its fake."""
    operator = OPERATORS[name]
    case = operator.case(dtype)
    compiled = torch.compile(lambda *args, **kwargs: operator.function(*args, **kwargs) * 1.0, fullgraph=True)
    assert_near(operator.by_autograd(compiled, case), operator.by_reference(case), case)


@pytest.mark.parametrize(
    ("dtype", "autocast"),
    [*((dtype, False) for dtype in DTYPES), (torch.float32, True), (torch.float64, True), (torch.bfloat16, True)],
    ids=lambda value: {False: "", True: "autocast"}.get(value, str(value)),
)
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_and_its_gradients_compile_into_one_graph(name, dtype, autocast):
    """Compiled output and parameter gradients equal the eager ones, with and without autocast."""
    torch.manual_seed(0)
    layer = LAYERS[name]().to(dtype)
    input = torch.randn(2, 4, 14, 16, dtype=dtype)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    results = []
    for function in (layer, compiled):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            output = function(input)
        results.append([output, *torch.autograd.grad(output.float().square().sum(), list(layer.parameters()))])
    for found, expected in zip(*results, strict=True):
        assert found.dtype == expected.dtype
        tolerance = TOLERANCES[torch.bfloat16 if autocast and dtype != torch.float64 else dtype]
        scale = max(1, float(expected.detach().abs().max()))
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("modulated", [False, True])
def test_a_deformed_resnet_is_one_graph(dtype, modulated):
    """torch._dynamo.explain finds no graph break after surgery."""
    network = deform(torchvision.models.resnet18().eval().to(dtype), 3, modulated=modulated)
    found = torch._dynamo.explain(network)(torch.randn(2, 3, 64, 64, dtype=dtype))
    assert (found.graph_count, found.graph_break_count) == (1, 0)


class Exported(nn.Module):
    def __init__(self, name: str, case: object) -> None:
        super().__init__()
        self.call, _ = OPERATORS[name].of_tensors(case)

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.call(*tensors)


@pytest.mark.parametrize("autocast", [False, True], ids=["", "autocast"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_exports_as_one_node(name, dtype, autocast):
    """torch.export keeps the operator whole, also under autocast, and its output is equal bit for bit."""
    operator = OPERATORS[name]
    case = operator.case(dtype)
    call, tensors = operator.of_tensors(case)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        exported = torch.export.export(Exported(name, case), tuple(tensors))
        expected, found = call(*tensors), exported.module()(*tensors)
    targets = [str(node.target) for node in exported.graph_module.graph.nodes] + [
        str(node.target)
        for part in exported.graph_module.children()
        if isinstance(part, torch.fx.GraphModule)
        for node in part.graph.nodes
    ]
    assert targets.count(f"dcnlab.{name}.default") == 1
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert_near({"output": found}, {"output": operator.by_reference(case)["output"]}, case, 3e-2 if autocast else None)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_an_exported_layer_keeps_its_gradients(name, dtype):
    """Parameter gradients through an exported layer equal those of the layer itself."""
    torch.manual_seed(0)
    layer = LAYERS[name]().to(dtype)
    input = torch.randn(2, 4, 14, 16, dtype=dtype)
    exported = torch.export.export(layer, (input,)).module()
    parameters = dict(layer.named_parameters())
    expected = torch.autograd.grad(layer(input).float().square().sum(), list(parameters.values()))
    again = [exported.get_parameter(name) for name in parameters]
    found = torch.autograd.grad(exported(input).float().square().sum(), again)
    for gradient, other in zip(expected, found, strict=True):
        scale = max(1, float(gradient.abs().max()))
        torch.testing.assert_close(other, gradient, rtol=0, atol=TOLERANCES[dtype] * scale)
