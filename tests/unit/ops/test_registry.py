"""The register of the operators: an operator stated once, from outside the package, is whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, NamedTuple, TypeVar

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dcnlab.ops import flops, registry

Each = TypeVar("Each")


class ScaledArguments(NamedTuple):
    """A map times a factor for each pixel, and a number."""

    input: Tensor
    factor: Tensor | None
    times: float


class ScaledGradients(NamedTuple, Generic[Each]):
    """What has a gradient."""

    input: Each
    factor: Each


def reference(input: Tensor, factor: Tensor | None, times: float) -> Tensor:
    output = input.to(torch.float64) * times
    return (output if factor is None else output * factor).to(input.dtype)


def no_flops(*args: object) -> int:
    return 3


def operator(name: str, kernels: dict[str, str]) -> registry.Operator:
    return registry.Operator(
        name=name,
        schema="Tensor input, Tensor? factor, float times",
        arguments=ScaledArguments,
        gradients=ScaledGradients,
        features=("input",),
        output_shape=lambda arguments: arguments.input.shape,
        reference=reference,
        flops=no_flops,
        backward_flops=no_flops,
        example=lambda random, channels: ScaledArguments(random(2, channels, 4, 5), None, 2.0),
        kernels=kernels,
    )


# ---- Kernels of the operator `toy_scaled`, which this module has. ----

calls: list[object] = []


def forward(arguments: ScaledArguments) -> Tensor:
    calls.append(arguments)
    return reference(*arguments)


def backward(grad: Tensor, arguments: ScaledArguments, needed: ScaledGradients[bool]) -> Sequence[Tensor | None]:
    calls.append(needed)
    input, factor, times = arguments
    return ScaledGradients(
        input=grad * times * (1 if factor is None else factor.to(grad.dtype)) if needed.input else None,
        factor=(grad * input * times).to(factor.dtype) if needed.factor and factor is not None else None,
    )


@pytest.fixture(scope="module")
def toy() -> Iterator[tuple[registry.Operator, Callable[[ScaledArguments], Tensor]]]:
    """The operator, and the function of its arguments."""
    made = operator("toy_scaled", {"cpu": __name__})
    yield made, registry.register(made)
    del registry.OPERATORS[made.name]


def leaves(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """A map, in the last dimension contiguous, and its factors."""
    torch.manual_seed(0)
    return torch.randn(2, 3, 4, 5).to(dtype).requires_grad_(), torch.rand(2, 3, 4, 5).double().requires_grad_()


@pytest.mark.usefixtures("toy")
def test_an_operator_of_ones_own_passes_torchs_check():
    """Schema, fakes and autograd of an operator and of its backward operator are as torch wants them."""
    input, factor = (leaf.detach() for leaf in leaves(torch.float32))
    forward_operator, backward_operator = torch.ops.dcnlab.toy_scaled, torch.ops.dcnlab.toy_scaled_backward
    torch.library.opcheck(forward_operator.default, (input.clone().requires_grad_(), factor.float(), 2.0))
    arguments = (torch.ones_like(input), input, factor.float(), 2.0, [True, False])
    torch.library.opcheck(backward_operator.default, arguments)


def test_an_operator_of_ones_own_has_every_derivative(toy):
    """First and second derivatives in reverse mode, and forward mode, equal the numeric ones."""

    def scaled(input: Tensor, factor: Tensor) -> Tensor:
        return toy[1](ScaledArguments(input, factor, 3.0))

    assert torch.autograd.gradcheck(scaled, leaves(), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(scaled, leaves())


def test_kernels_take_the_record_whole_and_what_is_needed(toy):
    """The kernels get the arguments by name, and the names of the gradients that are asked for."""
    _, call = toy
    input, factor = leaves()
    calls.clear()
    output = call(ScaledArguments(input, factor.detach(), 3.0))
    (grad,) = torch.autograd.grad(output.sum(), [input])
    torch.testing.assert_close(grad, 3.0 * factor.detach())
    given, needed = calls
    assert (type(given), given.times, given.factor.shape) == (ScaledArguments, 3.0, factor.shape)
    assert needed == ScaledGradients(input=True, factor=False)


def test_autocast_casts_features_and_coordinates_are_float32(toy):
    """Under autocast a feature has its dtype; a coordinate is float32, or float64 where the map is."""
    made, _ = toy
    given = ScaledArguments(torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1, dtype=torch.float16), 1.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast, double = made.cast(given), made.cast(given._replace(input=given.input.double()))
    assert (cast.input.dtype, cast.factor.dtype, cast.times) == (torch.bfloat16, torch.float32, 1.0)
    assert (double.input.dtype, double.factor.dtype) == (torch.float64, torch.float64)


def test_the_counter_counts_what_the_operator_states(toy):
    """torch's counter of operations has the formulas of a registered operator, forward and backward."""
    import torch.utils.flop_counter as counter

    flops._register(counter)
    _, call = toy
    with FlopCounterMode(display=False) as counted:
        call(ScaledArguments(*leaves(), 3.0)).sum().backward()
    assert counted.get_total_flops() == 6


def test_torch_compile_traces_the_first_use_of_an_operator(toy):
    """A fresh operator casts within one graph; a lazily computed property would break it."""
    fresh = dataclasses.replace(toy[0])

    def cast(input: Tensor, factor: Tensor) -> Tensor | None:
        given: ScaledArguments = fresh.cast(ScaledArguments(input, factor, 3.0))
        return given.factor

    compiled = torch.compile(cast, backend="eager", fullgraph=True)
    found = compiled(torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1, dtype=torch.float16))
    assert found is not None
    assert found.dtype == torch.float32
