"""Number of values that each batch norm averages in training."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class _Found(Exception):
    pass


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

    shapes = copy.deepcopy(network).to("meta").train()
    for name, module in shapes.named_modules():
        if isinstance(module, _BatchNorm):
            module.register_forward_pre_hook(partial(look, name))
    try:
        getattr(shapes, "backbone", shapes)(torch.empty(images.shape, device="meta"))
    except _Found:
        return norms_of_one[0]
    return None
