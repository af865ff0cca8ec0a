"""Forward hooks on a network's layers, to find the first one whose output is not finite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dcnlab.nn.offset_statistics import learns_offsets
from dcnlab.training import compilation

Hook = Callable[[str, nn.Module, Any, Any], None]
"""Takes a layer's name, the layer, the arguments of its forward method, and its output."""
Handle = RemovableHandle | compilation.Eager
"""What `remove` takes away."""


def network_of(pl_module: pl.LightningModule) -> nn.Module:
    """The task's network, under whose names messages name layers; a module without one is the network itself."""
    network = getattr(pl_module, "model", pl_module)
    assert isinstance(network, nn.Module)
    return network


def listen(pl_module: pl.LightningModule, hook: Hook, wanted: Callable[[nn.Module], bool]) -> list[Handle]:
    """Register a hook on every layer of the network that is wanted; until it is removed no compiled network runs."""
    network = network_of(pl_module)
    handles: list[Handle] = [
        layer.register_forward_hook(partial(hook, name)) for name, layer in network.named_modules() if wanted(layer)
    ]
    if handles and compilation.is_compiled(network):
        handles.append(compilation.Eager())
    return handles


def first_layer_not_finite(pl_module: pl.LightningModule, step: Callable[[], Any]) -> str | None:
    """Name of the first layer whose output is not finite when `step` runs again; None where all are finite."""
    names: list[str] = []

    def look(name: str, layer: nn.Module, arguments: Any, output: Any) -> None:
        if not names and not are_finite(output):
            names.append(name)

    handles = listen(pl_module, look, lambda layer: not any(layer.children()) or learns_offsets(layer))
    try:
        step()
    finally:
        remove(handles)
    return names[0] if names else None


def remove(handles: list[Handle]) -> None:
    """Remove hooks, and empty the list."""
    for handle in handles:
        handle.remove()
    handles.clear()


def are_finite(nested: Any) -> bool:
    """Whether all floating-point tensors in nested containers are finite."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in float_tensors(nested))


def float_tensors(nested: Any) -> Iterator[Tensor]:
    """The floating-point tensors in nested containers."""
    if isinstance(nested, Tensor):
        if nested.is_floating_point():
            yield nested
    elif isinstance(nested, dict):
        for value in nested.values():
            yield from float_tensors(value)
    elif isinstance(nested, list | tuple):
        for value in nested:
            yield from float_tensors(value)
