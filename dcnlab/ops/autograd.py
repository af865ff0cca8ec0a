"""Gradients for those who call the registered operators themselves: exported graphs, above all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def register(name: str, apply: Callable[..., Any] | None) -> None:
    """Give an operator of the `dcnlab` library the gradient of a torch.autograd.Function.

    The public functions go to the Function directly, which saves them a turn through the dispatcher.

    Args:
        name: of the operator.
        apply: calls the Function with the operator's arguments; None where there is no gradient, so that asking for one
            is an error rather than a silent zero.
    """
    operator = getattr(torch.ops.dcnlab, name).default

    def kernel(*args: Any) -> Any:
        if torch.is_grad_enabled() and any(isinstance(arg, Tensor) and arg.requires_grad for arg in args):
            if apply is None:
                raise RuntimeError(
                    f"dcnlab::{name} has no gradient of its own: differentiate the public function twice"
                )
            return apply(*args)
        with torch._C._AutoDispatchBelowAutograd():
            return operator(*args)

    torch.library.impl(f"dcnlab::{name}", "Autograd")(kernel)
