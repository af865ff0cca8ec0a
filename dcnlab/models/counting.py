"""Counts parameters and multiply-adds of a network."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import FrozenBatchNorm2d


def count_parameters(model: nn.Module) -> int:
    """Number of parameters: weights and biases, and those of norms, frozen or not."""
    norms = [module for module in model.modules() if isinstance(module, FrozenBatchNorm2d)]
    frozen = sum(norm.weight.numel() + norm.bias.numel() for norm in norms)
    return frozen + sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, image: Tensor) -> int:
    """Multiply-adds of one forward pass: convolutions, plain and deformable, and matrix products.

    Bilinear sampling does not count, neither in deformable convolutions nor in RoI pooling and
    deformable attention, which are all sampling.

    Args:
        model: the network; its mode is restored.
        image: (N, C, H, W); the count is for all N.
    """
    from dcnlab.ops.registry import OPERATORS  # importing the operators registers them with torch's counter

    training = model.training
    model.eval()
    poolings = [getattr(torch.ops.dcnlab, name) for name, each in OPERATORS.items() if "weight" not in each.fields]
    counter = FlopCounterMode(display=False, custom_mapping=dict.fromkeys(poolings, _nothing))
    with torch.no_grad(), counter:
        model(image)
    model.train(training)
    return counter.get_total_flops() // 2


def _nothing(*args: Any, **kwargs: Any) -> int:
    return 0
