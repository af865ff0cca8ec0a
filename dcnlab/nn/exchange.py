"""Exchanges a model's plain convolutions for other layers; refuses those that compute more."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from torch import nn

from dcnlab.nn import ActiveConv2d, AddedConv2d, DeformConv2d
from dcnlab.nn.conv_layers import convs_of, selected_layers
from dcnlab.nn.padding import pads_as_tensorflow

Model = TypeVar("Model", bound=nn.Module)


class LayerKindError(TypeError):
    """A layer that computes more than a convolution, which a replacement would lose."""


def exchange(
    model: Model,
    layers: int | str | Iterable[str],
    kind: type[nn.Conv2d],
    make: Callable[[nn.Conv2d], nn.Conv2d],
    kernel_size: int | tuple[int, int] | None,
) -> Model:
    """Put in the place of each plain convolution what is made of it; those of the kind already stay."""
    convs = convs_of(model)
    plain = [name for name in selected_layers(model, layers, convs, kernel_size) if not isinstance(convs[name], kind)]
    for name in plain:
        conv = convs[name]
        hooks = (conv._forward_hooks, conv._forward_pre_hooks, conv._backward_hooks, conv._backward_pre_hooks)
        if not _only_convolves(conv) or any(hooks):
            what = f"of class {type(conv).__name__}" if not _only_convolves(conv) else "an nn.Conv2d with hooks"
            raise LayerKindError(f"layers: {name} is {what}, which computes more than a plain nn.Conv2d")
    # All are made before any is put in place, so that one that cannot be made leaves the model as it was.
    replacements = [(convs[name], make(convs[name])) for name in plain]
    for conv, layer in replacements:
        _replace(model, conv, layer)
    return model


def _only_convolves(conv: nn.Conv2d) -> bool:
    """Whether a layer computes a convolution of its parameters, and nothing but padding besides."""
    kind = type(conv)
    if pads_as_tensorflow(conv):
        return not isinstance(conv, DeformConv2d | ActiveConv2d | AddedConv2d)
    inherited = all(getattr(kind, name) is getattr(nn.Conv2d, name) for name in ("forward", "_conv_forward"))
    inherited = inherited and kind.__call__ is nn.Conv2d.__call__ and "forward" not in vars(conv)
    return inherited and set(conv._parameters) == {"weight", "bias"} and not conv._buffers and not conv._modules


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put a layer in another's place, under every name that a model has for it."""
    for parent in list(model.modules()):
        for child, module in list(parent._modules.items()):  # named_children skips a module's second name
            if module is old:
                setattr(parent, child, new)
