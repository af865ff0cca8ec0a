"""Looks at the shapes of maps before a training: values that a batch norm averages, reach of dilated layers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

_Layer = TypeVar("_Layer")


class _Found(Exception):
    pass


def layer_beyond_its_map(network: nn.Module, images: Tensor) -> tuple[str, int, list[int]] | None:
    """The first convolution all of whose taps but the central one fall outside its map.

    Only shapes are computed, and of a detector or a segmentation network those of its backbone.

    Args:
        network: in any mode, which stays.
        images: (N, 3, H, W).

    Returns:
        Its name, its dilation and the shape (N, C, H, W) that comes to it, or None.
    """
    beyond: list[tuple[str, int, list[int]]] = []

    def look(name: str, layer: Any, arguments: tuple[Any, ...]) -> None:
        shape = list(arguments[0].shape)
        if layer.kernel_size[0] > 1 and layer.dilation[0] > 1 and layer.dilation[0] >= max(shape[-2:]):
            beyond.append((name, layer.dilation[0], shape))
            raise _Found

    return _first(network, images, nn.Conv2d, look, beyond)


def norm_of_one_value(network: nn.Module, images: Tensor) -> tuple[str, list[int]] | None:
    """The first batch norm whose input in training has one value per channel, and so no variance.

    Only shapes are computed, and of a detector or a segmentation network those of its backbone, which has all norms.

    Args:
        network: in any mode, which stays; frozen norms do not average.
        images: (N, 3, H, W).

    Returns:
        Its name and the shape (N, C, H, W) that comes to it, or None.
    """
    norms_of_one: list[tuple[str, list[int]]] = []

    def look(name: str, norm: nn.Module, arguments: tuple[Any, ...]) -> None:
        shape = list(arguments[0].shape)
        if shape[0] * arguments[0][0, 0].numel() == 1:
            norms_of_one.append((name, shape))
            raise _Found

    return _first(network, images, _BatchNorm, look, norms_of_one)


def _first(
    network: nn.Module, images: Tensor, kind: type[nn.Module], look: Callable[..., None], seen: list[_Layer]
) -> _Layer | None:
    """Show the input of each layer of a kind to `look`, until it raises `_Found`.

    Args:
        network: in any mode, which stays.
        images: (N, 3, H, W).
        kind: of the layers.
        look: takes the layer's name, the layer and its arguments.
        seen: to which `look` adds.
    """
    shapes = copy.deepcopy(network).to("meta").train()
    for name, module in shapes.named_modules():
        if isinstance(module, kind):
            module.register_forward_pre_hook(partial(look, name))
    try:
        getattr(shapes, "backbone", shapes)(torch.empty(images.shape, device="meta"))
    except _Found:
        return seen[0]
    return None
