"""Initialisation of layers without pretrained weights."""

from __future__ import annotations

from torch import nn

OFFSET_LAYERS = ("offset_conv", "offset_fc")


def init_new_layers(*modules: nn.Module, std: float = 0.01) -> None:
    """Draw the weights of convolutions and linear layers from N(0, std) and zero their biases, as the paper does.

    Offset layers, the modules called `offset_conv` and `offset_fc`, are left at the zeros that they start with.

    Args:
        modules: whose layers are drawn, in the order of registration.
        std: standard deviation.
    """
    for module in modules:
        for name, layer in module.named_modules():
            if isinstance(layer, nn.Conv2d | nn.Linear) and name.split(".")[-1] not in OFFSET_LAYERS:
                nn.init.normal_(layer.weight, std=std)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
