"""Registers the operators with torch, each from one record: schema, kernels, fakes, derivatives, autocast, FLOPs.

An operator is two torch.library operators, forward and backward, with kernels by device and fakes, and a
torch.autograd.Function around them, which costs a call a third of what a registered gradient costs.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor

from dcnlab.ops import autocast, autograd
from dcnlab.ops.layout import empty_map, memory_format


def _compute(kernels: Any, arguments: Any) -> Tensor:
    output: Tensor = kernels.forward(arguments)
    return output


def _compute_backward(kernels: Any, grad: Tensor, arguments: Any, needed: Any) -> Sequence[Tensor | None]:
    grads: Sequence[Tensor | None] = kernels.backward(grad, arguments, needed)
    return grads


@dataclass(frozen=True, eq=False)
class Operator:
    """One operator. Its first argument is the features that it reads, and gives device, dtype and memory format."""

    name: str
    """In the library `dcnlab`; its gradient is NAME_backward."""
    schema: str
    """The arguments as torch.library takes them; order and names are those of the public function."""
    arguments: Callable[..., Any]
    """A NamedTuple of the arguments, which all layers take whole."""
    gradients: Callable[..., Any]
    """A NamedTuple of the arguments that have a gradient, in the same order."""
    features: tuple[str, ...]
    """The tensors of the output's dtype, which autocast casts.

    Other floating tensors are coordinates: float32, or float64. Integers stay as they are.
    """
    output_shape: Callable[[Any], tuple[int, ...]]
    """Of the arguments."""
    reference: Callable[..., Tensor]
    """The operator by torch's own operators, with the same arguments."""
    flops: Callable[[Any, Sequence[int]], int]
    """Floating-point operations, of arguments with shapes in the place of tensors, and of the output's shape."""
    backward_flops: Callable[[Any, Sequence[int], Any], int]
    """The same of the gradient; the last argument says which gradients are needed."""
    example: Callable[[Callable[..., Tensor], int], tuple[Any, ...]]
    """Arguments for a self-test, of a function that draws a tensor, and a number of channels."""
    kernels: Mapping[str, str]
    """By type of device, cpu or cuda, the module whose `forward` and `backward` compute."""
    compute: Callable[[Any, Any], Tensor] = _compute
    """Calls the kernels' forward pass."""
    compute_backward: Callable[[Any, Tensor, Any, Any], Sequence[Tensor | None]] = _compute_backward
    """Calls the kernels' backward pass."""
    reads_maps: bool = True
    """Features are maps (N, C, H, W), and results come in their memory format; else results are contiguous."""

    fields: tuple[str, ...] = field(init=False)
    """Names of the arguments."""
    tensors: tuple[int, ...] = field(init=False)
    """Positions of the arguments that are tensors."""
    differentiable: tuple[int, ...] = field(init=False)
    """Positions of the arguments that have a gradient."""
    _casts: tuple[tuple[int, bool], ...] = field(init=False)
    """Positions of the tensors, and whether each is a feature."""

    def __post_init__(self) -> None:
        # At once, not as cached properties: torch.compile cannot trace the lock of one at its first use.
        fields: tuple[str, ...] = self.arguments._fields  # type: ignore[attr-defined]
        kinds = {text.split()[1]: text.split()[0] for text in self.schema.split(", ")}
        tensors = tuple(position for position, name in enumerate(fields) if kinds[name].startswith("Tensor"))
        derived = {
            "fields": fields,
            "tensors": tensors,
            "differentiable": tuple(map(fields.index, self.gradients._fields)),  # type: ignore[attr-defined]
            "_casts": tuple((position, fields[position] in self.features) for position in tensors),
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    def cast(self, arguments: Any) -> Any:
        """Cast features as autocast says; coordinates to float32, or to float64 with a float64 map."""
        real = torch.float64 if arguments[0].dtype == torch.float64 else torch.float32
        device = arguments[0].device.type
        is_on = autocast.is_on(device)
        values = list(arguments)
        for position, is_feature in self._casts:
            tensor = values[position]
            if tensor is not None:
                if not is_feature:
                    values[position] = tensor.to(real) if tensor.is_floating_point() else tensor
                elif is_on:
                    values[position] = autocast.cast(device, tensor)
        return self.arguments(*values)


OPERATORS: dict[str, Operator] = {}
"""All operators, by name."""


def register(operator: Operator) -> Callable[[Any], Tensor]:
    """Make an operator known to torch.

    Returns:
        The function of checked arguments, with every derivative.
    """
    name, count = operator.name, len(operator.differentiable)
    results = ", ".join(["Tensor"] * count)
    backward = f"(Tensor grad, {operator.schema}, bool[{count}] needed) -> ({results})"
    tag = torch.Tag.pt2_compliant_tag
    torch.library.define(f"dcnlab::{name}", f"({operator.schema}) -> Tensor", tags=tag)
    torch.library.define(f"dcnlab::{name}_backward", backward, tags=tag)
    _register_fakes(operator)
    _register_kernels(operator)
    OPERATORS[name] = operator
    return autograd.register(name, operator.tensors, operator.differentiable, operator.reference)


def _register_fakes(operator: Operator) -> None:
    @torch.library.register_fake(f"dcnlab::{operator.name}")
    def fake(*values: Any) -> Tensor:
        arguments = operator.arguments(*values)
        shape = operator.output_shape(arguments)
        if not operator.reads_maps:
            return arguments[0].new_empty(shape)
        return empty_map(arguments[0], shape, memory_format(arguments[0]))

    @torch.library.register_fake(f"dcnlab::{operator.name}_backward")
    def fake_backward(grad: Tensor, *values: Any) -> tuple[Tensor, ...]:
        *given, needed = values
        return tuple(
            _fake_gradient(given[position], operator.reads_maps and operator.fields[position] in operator.features)
            if need and given[position] is not None
            else given[0].new_empty(0)
            for position, need in zip(operator.differentiable, needed, strict=True)
        )


def _fake_gradient(tensor: Tensor, is_map: bool) -> Tensor:
    """Gradients of maps and filters lie in memory as those do; others are contiguous."""
    if is_map and tensor.dim() == 4:
        return empty_map(tensor, tensor.shape, memory_format(tensor))
    return tensor.new_empty(tensor.shape)


def _register_kernels(operator: Operator) -> None:
    devices = tuple(operator.kernels)

    @torch.library.impl(f"dcnlab::{operator.name}", devices)
    def compute(*values: Any) -> Tensor:
        return operator.compute(_kernels_of(operator, values[0]), operator.arguments(*values))

    @torch.library.impl(f"dcnlab::{operator.name}_backward", devices)
    def compute_backward(grad: Tensor, *values: Any) -> tuple[Tensor, ...]:
        *given, needed = values
        arguments, wanted = operator.arguments(*given), operator.gradients(*needed)
        grads = operator.compute_backward(_kernels_of(operator, given[0]), grad, arguments, wanted)
        return tuple([given[0].new_empty(0) if each is None else each for each in grads])


def device_of(tensor: Tensor) -> str:
    """The type of device that computes a call, by its first tensor."""
    return "cuda" if tensor.is_cuda else "cpu"


def _kernels_of(operator: Operator, tensor: Tensor) -> Any:
    """The module that computes a call, by its first tensor."""
    return _imported(operator.kernels[device_of(tensor)])


@cache
def _imported(name: str) -> Any:
    """A module, imported on first use: numba and CuPy are slow to load."""
    return importlib.import_module(name)
