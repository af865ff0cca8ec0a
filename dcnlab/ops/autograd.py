"""Derivatives of the operators: from the kernels where these have them, else from the reference implementation.

The kernels have first derivatives in reverse mode, through a torch.autograd.Function. Forward mode and the transforms
of torch.func differentiate the reference implementation instead, which consists of torch's own operators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from dcnlab.ops import autocast


def forward_mode() -> bool:
    """Whether tensors may have tangents here: inside torch.autograd.forward_ad.dual_level or torch.func.jvp."""
    return forward_ad._current_level >= 0


def needs_reference() -> bool:
    """Whether derivatives may be wanted here that the kernels do not have: in forward mode and in torch.func.

    torch.vmap alone wants none where gradients are off: it calls the kernels in a loop.
    """
    return forward_mode() or (torch.is_grad_enabled() and torch._C._are_functorch_transforms_active())


def needs_differentiable_backward() -> bool:
    """Whether a Function's backward pass is itself differentiated: by create_graph=True, or in forward mode."""
    return forward_mode() or (torch.is_grad_enabled() and not torch.compiler.is_compiling())


def differentiate(
    function: Callable[..., Tensor], arguments: Sequence[Any], wanted: Sequence[Tensor], grad: Tensor
) -> tuple[Tensor, ...]:
    """The gradients of a function's arguments, as functions that can be differentiated again.

    Args:
        function: in torch's own operators.
        arguments: of the function.
        wanted: those of the arguments whose gradients are wanted.
        grad: the gradient of the function's output.
    """
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        output = function(*arguments)
        return torch.autograd.grad(output, wanted, grad, create_graph=again, materialize_grads=True)


def register(
    name: str, tensors: tuple[int, ...], differentiable: tuple[int, ...], reference: Callable[..., Tensor]
) -> Callable[[Sequence[Any]], Tensor]:
    """Give an operator of the `dcnlab` library its derivatives, also where a graph calls it.

    Args:
        name: of the operator; NAME_backward computes its gradients.
        tensors: positions of the arguments that are tensors.
        differentiable: positions of those that have gradients, in the order of NAME_backward's results.
        reference: computes the operator by torch's own, for forward mode and torch.func.

    Returns:
        The function of the operator's arguments.
    """
    operator = getattr(torch.ops.dcnlab, name)

    def by_reference(*arguments: Any) -> Tensor:
        with autocast.off(arguments[0].device.type):  # the arguments are cast already
            return reference(*arguments)

    apply: Callable[..., Tensor] = _function(name, tensors, differentiable, by_reference).apply

    def call(arguments: Sequence[Any]) -> Tensor:
        if needs_reference():
            return by_reference(*arguments)
        if torch.is_grad_enabled() and not torch.jit.is_tracing():
            # Straight to the Function, which saves a call of the dispatcher. torch.jit.trace would record it as a call
            # into Python, which cannot be saved; it gets the registered operator.
            for position in differentiable:
                tensor = arguments[position]
                if tensor is not None and tensor.requires_grad:
                    return apply(*arguments)
        output: Tensor = operator(*arguments)
        return output

    _register_key(name, apply, by_reference)
    _register_key(f"{name}_backward", None, None)
    return call


def _function(
    name: str, tensors: tuple[int, ...], differentiable: tuple[int, ...], reference: Callable[..., Tensor]
) -> type[torch.autograd.Function]:
    """The Function around an operator and its backward operator."""
    operator = getattr(torch.ops.dcnlab, name)
    backward_operator = getattr(torch.ops.dcnlab, f"{name}_backward")

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *arguments: Any) -> Tensor:
            ctx.save_for_backward(*[arguments[position] for position in tensors])
            ctx.sizes = [None if position in tensors else value for position, value in enumerate(arguments)]
            output: Tensor = operator(*arguments)
            return output

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
            arguments = list(ctx.sizes)
            for position, tensor in zip(tensors, ctx.saved_tensors, strict=True):
                arguments[position] = tensor
            needed = [ctx.needs_input_grad[position] for position in differentiable]
            if needs_differentiable_backward():
                wanted = [arguments[p] for p, need in zip(differentiable, needed, strict=True) if need]
                grads = iter(differentiate(reference, arguments, wanted, grad))
            else:
                every = backward_operator(grad, *arguments, needed)
                grads = iter([each for each, need in zip(every, needed, strict=True) if need])
            result: list[Tensor | None] = [None] * len(arguments)
            for position, need in zip(differentiable, needed, strict=True):
                if need:
                    result[position] = next(grads)
            return tuple(result)

    return Function


def _register_key(name: str, apply: Callable[..., Any] | None, reference: Callable[..., Any] | None) -> None:
    """Register the dispatcher's function for derivatives; None for both: a derivative raises instead of being zero."""
    operator = getattr(torch.ops.dcnlab, name).default

    def kernel(*args: Any) -> Any:
        wants_gradient = torch.is_grad_enabled() and any(
            [isinstance(arg, Tensor) and arg.requires_grad for arg in args]
        )
        if (wants_gradient and needs_reference()) or _have_tangents(args):
            return _or_raise(name, reference)(*args)
        if wants_gradient:
            return _or_raise(name, apply)(*args)
        with torch._C._AutoDispatchBelowAutograd():
            return operator(*args)

    torch.library.impl(f"dcnlab::{name}", "Autograd")(kernel)


def _any_requires_grad(args: Sequence[Any]) -> bool:
    return any([isinstance(arg, Tensor) and arg.requires_grad for arg in args])


def _have_tangents(args: Sequence[Any]) -> bool:
    if not forward_mode():
        return False
    return any(forward_ad.unpack_dual(arg).tangent is not None for arg in args if isinstance(arg, Tensor))


def _or_raise(name: str, function: Callable[..., Any] | None) -> Callable[..., Any]:
    if function is None:
        raise RuntimeError(f"dcnlab::{name} has no derivative: differentiate the public function twice")
    return function
