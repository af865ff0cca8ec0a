"""Choice of the implementation of a call, by the derivatives that are asked for.

The kernels have first derivatives in reverse mode, through a torch.autograd.Function. Forward mode and the transforms
of torch.func differentiate the reference implementation instead, which consists of torch's own operators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad


def forward_mode() -> bool:
    """Whether tensors may have tangents here: inside torch.autograd.forward_ad.dual_level or torch.func.jvp."""
    return forward_ad._current_level >= 0


def needs_reference() -> bool:
    """Whether derivatives may be wanted here that the kernels do not have: in forward mode and in torch.func.

    torch.vmap alone wants none where gradients are off: it calls the kernels in a loop.
    """
    return forward_mode() or (torch.is_grad_enabled() and torch._C._are_functorch_transforms_active())


def needs_function(*tensors: Tensor | None) -> bool:
    """Whether a call goes through the torch.autograd.Function directly, which saves it a call of the dispatcher.

    torch.jit.trace records a Function as a call into Python, which cannot be saved; it gets the registered operator.
    """
    wants_gradient = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    return wants_gradient and not torch.jit.is_tracing()


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
        grad: the gradient of what the function returns.
    """
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        output = function(*arguments)
        return torch.autograd.grad(output, wanted, grad, create_graph=again, materialize_grads=True)


def register(name: str, apply: Callable[..., Any] | None, reference: Callable[..., Any] | None = None) -> None:
    """Give an operator of the `dcnlab` library its derivatives, for those who call it themselves: graphs, above all.

    Args:
        name: of the operator.
        apply: calls the Function with the operator's arguments; None where there is no gradient, so that asking for one
            is an error rather than a silent zero.
        reference: computes the operator by torch's own, for forward mode and torch.func; None where it has none.
    """
    operator = getattr(torch.ops.dcnlab, name).default

    def kernel(*args: Any) -> Any:
        tensors = [arg for arg in args if isinstance(arg, Tensor)]
        wants_gradient = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
        if (wants_gradient and needs_reference()) or _have_tangents(tensors):
            return _or_raise(name, reference)(*args)
        if wants_gradient:
            return _or_raise(name, apply)(*args)
        with torch._C._AutoDispatchBelowAutograd():
            return operator(*args)

    torch.library.impl(f"dcnlab::{name}", "Autograd")(kernel)


def _have_tangents(tensors: Sequence[Tensor]) -> bool:
    return forward_mode() and any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors)


def _or_raise(name: str, function: Callable[..., Any] | None) -> Callable[..., Any]:
    if function is None:
        raise RuntimeError(f"dcnlab::{name} has no derivative of its own: differentiate the public function twice")
    return function
