"""Derivatives beyond the backward pass: forward mode, torch.func, batched gradients, second derivatives."""

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
import torchvision
from op_cases import OPERATORS
from torch import Tensor

from dcnlab.nn import DeformConv2d
from dcnlab.ops import deform_conv2d
from dcnlab.surgery import deform

CONV = {"batch": 1, "channels": 2, "filters": 1, "height": 2, "width": 3, "kernel": (1, 2), "padding": (0, 0)}
POOL = {"batch": 1, "channels": 1, "height": 3, "width": 4, "rois": 2, "out_size": (2, 2)}
ATTENTION = {"batch": 1, "heads": 1, "channels": 2, "height": 2, "width": 3, "queries": 2, "points": 1, "reach": 0.3}
SMALL = {
    "deform_conv2d": CONV,
    "deform_ps_roi_pool": POOL | {"part": 2},
    "deform_roi_pool": POOL,
    "ms_deform_attn": ATTENTION,
}
"""Sizes for checks that take a derivative of every number by every other."""

by_operator = pytest.mark.parametrize("name", OPERATORS)


def along(tensors: list[Tensor]) -> list[Tensor]:
    """A direction for each tensor."""
    g = torch.Generator().manual_seed(7)
    return [torch.randn(t.shape, generator=g, dtype=torch.float64).to(t.dtype) for t in tensors]


def inner(first: list[Tensor], second: list[Tensor]) -> float:
    return sum(float((a.double() * b.double()).sum()) for a, b in zip(first, second, strict=True))


@by_operator
def test_gradcheck_in_forward_mode_and_of_batches_of_gradients(name):
    operator = OPERATORS[name]
    call, tensors = operator.of_tensors(operator.case(torch.float64, **SMALL[name]))
    leaves = [tensor.requires_grad_() for tensor in tensors]
    checks = {"check_forward_ad": True, "check_batched_grad": True, "check_batched_forward_grad": True}
    assert torch.autograd.gradcheck(call, leaves, **checks)


@by_operator
def test_second_derivatives_forward_over_reverse(name):
    """gradgradcheck with forward-mode over reverse-mode."""
    operator = OPERATORS[name]
    call, tensors = operator.of_tensors(operator.case(torch.float64, **SMALL[name]))
    leaves = [tensor.requires_grad_() for tensor in tensors]
    assert torch.autograd.gradgradcheck(call, leaves, check_fwd_over_rev=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@by_operator
def test_tangents_agree_with_the_backward_kernel(name, dtype):
    """<J v, g> = <v, J^T g>, also in bfloat16."""
    # <J v, g> = <v, J^T g>: the left side in forward mode, the right one by the backward pass.
    operator = OPERATORS[name]
    case = operator.case(dtype)
    call, tensors = operator.of_tensors(case)
    directions, grad = along(tensors), case.grad()
    output, tangent = torch.func.jvp(call, tuple(tensors), tuple(directions))
    assert output.dtype == tangent.dtype == dtype
    leaves = [tensor.requires_grad_() for tensor in tensors]
    expected = inner(directions, list(torch.autograd.grad(call(*leaves), leaves, grad)))
    scale = float(tangent.double().norm() * grad.double().norm())
    assert abs(inner([tangent], [grad]) - expected) <= (1e-5 if dtype == torch.float32 else 1e-2) * scale
    assert abs(expected) > 0.01 * scale


@by_operator
def test_dual_tensors_carry_their_tangent_through(name):
    """torch.func.jvp is the oracle for make_dual and unpack_dual."""
    operator = OPERATORS[name]
    call, tensors = operator.of_tensors(operator.case(torch.float32))
    directions = along(tensors)
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(t, d) for t, d in zip(tensors, directions, strict=True)]
        found = forward_ad.unpack_dual(call(*duals)).tangent
    expected = torch.func.jvp(call, tuple(tensors), tuple(directions))[1]
    torch.testing.assert_close(found, expected)


@by_operator
def test_forward_mode_passes_through_the_backward_pass(name):
    """The backward pass is linear: a gradient's tangent comes out as its own backward pass."""
    # The gradient is linear in what comes back, so its tangent is the backward pass of the tangent.
    operator = OPERATORS[name]
    case = operator.case(torch.float32)
    call, tensors = operator.of_tensors(case)
    leaves = [tensor.requires_grad_() for tensor in tensors]
    output, grad = call(*leaves), case.grad()
    tangent = grad.flip(0)
    expected = torch.autograd.grad(output, leaves, tangent, retain_graph=True)
    with forward_ad.dual_level():
        found = torch.autograd.grad(output, leaves, forward_ad.make_dual(grad, tangent))
        tangents = [forward_ad.unpack_dual(gradient).tangent for gradient in found]
    for value, other in zip(tangents, expected, strict=True):
        torch.testing.assert_close(value, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


@by_operator
def test_an_exported_graph_has_tangents_too(name):
    operator = OPERATORS[name]
    call, tensors = operator.of_tensors(operator.case(torch.float32))

    class Module(torch.nn.Module):
        def forward(self, *tensors):
            return call(*tensors)

    exported = torch.export.export(Module(), tuple(tensors)).module()
    directions = along(tensors)
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(t, d) for t, d in zip(tensors, directions, strict=True)]
        found = forward_ad.unpack_dual(exported(*duals)).tangent
    torch.testing.assert_close(found, torch.func.jvp(call, tuple(tensors), tuple(directions))[1])


@by_operator
def test_an_exported_graph_can_be_differentiated_by_torch_func(name):
    operator = OPERATORS[name]
    call, tensors = operator.of_tensors(operator.case(torch.float32))

    class Module(torch.nn.Module):
        def forward(self, *tensors):
            return call(*tensors)

    exported = torch.export.export(Module(), tuple(tensors)).module()
    expected = torch.func.grad(lambda t: call(t, *tensors[1:]).sum())(tensors[0])
    found = torch.func.grad(lambda t: exported(t, *tensors[1:]).sum())(tensors[0])
    torch.testing.assert_close(found, expected)


@by_operator
def test_torch_func_gives_the_backward_pass(name):
    operator = OPERATORS[name]
    call, tensors = operator.of_tensors(operator.case(torch.float32))
    numbers = tuple(range(len(tensors)))
    found = torch.func.grad(lambda *t: call(*t).square().sum(), argnums=numbers)(*tensors)
    by_rows = torch.func.jacrev(lambda *t: call(*t).square().sum(), argnums=numbers)(*tensors)
    by_columns = torch.func.jacfwd(lambda t: call(*tensors[:-1], t).square().sum())(tensors[-1])
    leaves = [tensor.requires_grad_() for tensor in tensors]
    expected = torch.autograd.grad(call(*leaves).square().sum(), leaves)
    for value, other, truth in zip(found, by_rows, expected, strict=True):
        torch.testing.assert_close(value, truth, rtol=1e-4, atol=1e-4 * float(truth.abs().max()))
        torch.testing.assert_close(other, value)
    torch.testing.assert_close(by_columns, found[-1], rtol=1e-4, atol=1e-4 * float(found[-1].abs().max()))


@by_operator
def test_a_hessian_is_that_of_two_backward_passes(name):
    operator = OPERATORS[name]
    call, tensors = operator.of_tensors(operator.case(torch.float64, **SMALL[name]))

    def loss(tensor):
        return call(*tensors[:-1], tensor).square().sum()

    expected = torch.autograd.functional.hessian(loss, tensors[-1])
    assert expected.any()
    torch.testing.assert_close(torch.func.hessian(loss)(tensors[-1]), expected)


@by_operator
def test_a_vectorized_jacobian_equals_single_backward_passes(name):
    """Both strategies of torch's jacobian with vmap give the values computed one by one."""
    operator = OPERATORS[name]
    call, tensors = operator.of_tensors(operator.case(torch.float32, **SMALL[name]))
    expected = torch.autograd.functional.jacobian(call, tuple(tensors))
    for strategy in ("reverse-mode", "forward-mode"):
        found = torch.autograd.functional.jacobian(call, tuple(tensors), vectorize=True, strategy=strategy)
        for value, other in zip(found, expected, strict=True):
            torch.testing.assert_close(value, other, rtol=1e-4, atol=1e-5)


def test_torch_func_gives_torchvisions_gradient():
    operator = OPERATORS["deform_conv2d"]
    input, offset, mask, weight, bias = operator.case(torch.float64).tensors().values()

    def loss(function, weight):
        return function(input, offset, weight, bias, padding=1, mask=mask).square().sum()

    found = torch.func.grad(lambda w: loss(deform_conv2d, w))(weight)
    leaf = weight.clone().requires_grad_()
    torch.testing.assert_close(found, torch.autograd.grad(loss(torchvision.ops.deform_conv2d, leaf), leaf)[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_per_sample_gradients_equal_those_of_single_images(dtype):
    """vmap of grad over the images of a batch."""
    layer = DeformConv2d(4, 6, 3, padding=1, dtype=dtype)
    torch.nn.init.normal_(layer.offset_conv.weight, std=0.1)
    parameters = dict(layer.named_parameters())
    images = torch.randn(3, 4, 7, 9, dtype=dtype)

    def loss(parameters, image):
        return torch.func.functional_call(layer, parameters, (image[None],)).float().square().sum()

    found = torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, images)
    for number, image in enumerate(images):
        expected = torch.autograd.grad(layer(image[None]).float().square().sum(), list(parameters.values()))
        for value, other in zip(found.values(), expected, strict=True):
            tolerance = (1e-4 if dtype == torch.float32 else 0.05) * float(other.abs().max())
            torch.testing.assert_close(value[number], other, rtol=0, atol=tolerance)


@pytest.mark.parametrize("enabled", [True, False], ids=["gradients", "no_grad"])
@by_operator
def test_vmap_gives_what_a_loop_gives(name, enabled):
    operator = OPERATORS[name]
    call, tensors = operator.of_tensors(operator.case(torch.float32))
    inputs = torch.stack([tensors[0], tensors[0].flip(-1)])
    with torch.set_grad_enabled(enabled):
        found = torch.vmap(lambda t: call(t, *tensors[1:]))(inputs)
    expected = torch.stack([call(t, *tensors[1:]) for t in inputs])
    torch.testing.assert_close(found, expected)


@by_operator
def test_vmap_passes_gradients_to_outer_tensors(name):
    """A tensor that requires a gradient outside of vmap gets the gradient of a loop."""
    operator = OPERATORS[name]
    call, tensors = operator.of_tensors(operator.case(torch.float32))
    inputs = torch.stack([tensors[0], tensors[0].flip(-1)]).requires_grad_()
    found = torch.autograd.grad(torch.vmap(lambda t: call(t, *tensors[1:]))(inputs).square().sum(), inputs)[0]
    expected = torch.autograd.grad(sum(call(t, *tensors[1:]).square().sum() for t in inputs), inputs)[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_a_compiled_operator_has_tangents_in_a_dual_level():
    """A function that was compiled without tangents must not drop them later."""
    operator = OPERATORS["deform_conv2d"]
    call, tensors = operator.of_tensors(operator.case(torch.float32))
    torch._dynamo.reset()
    compiled = torch.compile(call, backend="aot_eager")
    compiled(*tensors)
    directions = along(tensors)
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(t, d) for t, d in zip(tensors, directions, strict=True)]
        found = forward_ad.unpack_dual(compiled(*duals)).tangent
    torch.testing.assert_close(found, torch.func.jvp(call, tuple(tensors), tuple(directions))[1])


def test_surgery_keeps_a_networks_forward_derivative():
    """jvp through ResNet-18 is the same before and after deform."""
    torch.manual_seed(0)
    network = torchvision.models.resnet18().eval()
    image, direction = torch.randn(2, 1, 3, 64, 64).unbind()
    with torch.no_grad():
        before = torch.func.jvp(network, (image,), (direction,))[1]
        after = torch.func.jvp(deform(network, 3), (image,), (direction,))[1]
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-4)
