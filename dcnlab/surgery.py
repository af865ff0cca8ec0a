"""Surgery: replaces convolutions of any CNN by deformable ones around the same weights (paper, section 2).

It also makes what the paper compares with (section 3): active or dilated layers, and transformed inputs. `add_maps`
makes the control of deformable layers, with as many parameters.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Iterable

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from dcnlab.nn import ActiveConv2d, AddedConv2d, DeformConv2d, SpatialTransformer
from dcnlab.nn.conv_layers import LayerNotFoundError, conv_layers, convs_of, selected_layers
from dcnlab.nn.dilation import check_keeps_size, check_rate, set_dilation
from dcnlab.nn.exchange import LayerKindError, Model, exchange

__all__ = [
    "LayerKindError",
    "LayerNotFoundError",
    "activate",
    "add_maps",
    "conv_layers",
    "deform",
    "dilate",
    "dilate_offsets",
    "transform_input",
]


def deform(
    model: Model,
    layers: int | str | Iterable[str],
    offset_groups: int = 1,
    modulated: bool = False,
    *,
    kernel_size: int | tuple[int, int] | None = 3,
    offset_branch: str = "dense",
) -> Model:
    """Replace convolutions by deformable ones around the same weights; the model computes the same until trained.

    The same within rounding: at zero offsets a sampled value is the input's own to the last bit, and only the sum over
    taps and channels is taken in another order than torch's convolution has. Where sums are exact, so is the output.

    Initialise first, operate then. Loops over nn.Conv2d and nn.Linear, by class or by its name, and loops that call
    `reset_parameters` leave the offsets at zero. A loop that draws every parameter, or every module's weight, does
    not; after it, call `reset_offsets` of each DeformConv2d. Give an optimizer all of `model.parameters()`: one whose
    parameters are gathered from nn.Conv2d and nn.Linear by class leaves the offsets untrained. Surgery itself draws no
    random numbers, and replaces a layer under its registered names, not in Python lists of the model's own.

    Args:
        model: changed in place.
        layers: n, for the last n convolutions of the kernel size (`conv_layers`); or names and glob patterns, as in
            `"layer4.*.conv2"`. A name may be any nn.Conv2d; a pattern picks among those larger than 1x1. Layers
            that are deformable already stay as they are.
        offset_groups: groups of input channels, each with separate offsets.
        modulated: deformable convolution version 2.
        kernel_size: of the layers that a number counts: 3, for 3x3; (height, width); None: every size above 1x1.
        offset_branch: dense or depthwise, see `DeformConv2d`. A warning says what dense branches of depthwise layers
            cost where they add a tenth of the model's parameters or more.

    Returns:
        The model.

    Raises:
        LayerNotFoundError: a name or pattern that matches nothing, with the nearest names; or too large an n.
        LayerKindError: a layer that computes more than a convolution (weight-standardised, say) or has hooks, lost in a
            replacement. Subclasses of nn.Conv2d that only pad otherwise are taken: timm's Conv2dSame.
    """

    def make(conv: nn.Conv2d) -> DeformConv2d:
        return DeformConv2d.from_conv(conv, offset_groups, modulated, offset_branch)

    before = {id(module) for module in model.modules()}
    parameters = sum(parameter.numel() for parameter in model.parameters() if not is_lazy(parameter))
    exchange(model, layers, DeformConv2d, make, kernel_size)
    if offset_branch == "dense":
        _warn_of_wide_branches([module for module in model.modules() if id(module) not in before], parameters)
    return model


def activate(
    model: Model,
    layers: int | str | Iterable[str],
    offset_groups: int = 1,
    *,
    kernel_size: int | tuple[int, int] | None = 3,
) -> Model:
    """Replace convolutions by active ones around the same weights; the model computes the same until trained.

    Args:
        model: changed in place.
        layers: as for `deform`. Layers that are active already stay as they are.
        offset_groups: groups of input channels, each with separate offsets.
        kernel_size: as for `deform`.

    Returns:
        The model.

    Raises:
        LayerNotFoundError: as for `deform`.
        LayerKindError: likewise; also a layer that is deformable already.
    """
    return exchange(model, layers, ActiveConv2d, lambda conv: ActiveConv2d.from_conv(conv, offset_groups), kernel_size)


def add_maps(
    model: Model,
    layers: int | str | Iterable[str],
    offset_groups: int = 1,
    *,
    kernel_size: int | tuple[int, int] | None = 3,
    offset_branch: str = "dense",
) -> Model:
    """Replace convolutions by the control of deformable ones: offset maps are added to the output, and move no taps.

    The model computes the same until trained. The branches' weights are drawn from torch's global generator, which
    afterwards is as it was before.

    Args:
        model: changed in place.
        layers: as for `deform`. Layers that are of this kind already stay as they are.
        offset_groups: as for `deform`.
        kernel_size: likewise.
        offset_branch: likewise.

    Returns:
        The model.

    Raises:
        LayerNotFoundError: as for `deform`.
        LayerKindError: likewise; also a layer that is deformable already.
    """

    def make(conv: nn.Conv2d) -> AddedConv2d:
        return AddedConv2d.from_conv(conv, offset_groups, offset_branch)

    devices = {parameter.device for parameter in model.parameters() if parameter.is_cuda}
    with torch.random.fork_rng(list(devices)):
        return exchange(model, layers, AddedConv2d, make, kernel_size)


def transform_input(model: nn.Module, in_channels: int = 3) -> nn.Sequential:
    """Put a spatial transformer in front of a model, which computes the same until trained, to the last bit.

    The transformer's numbers are drawn from torch's global generator, which afterwards is as it was before.

    Args:
        model: takes images (N, in_channels, H, W) as its only argument.
        in_channels: of the images.

    Returns:
        A new model of two parts, `transformer` and, the very same, `backbone`: a run's checkpoint gives its backbone to
        other models by that name.
    """
    weight = next(model.parameters())
    with torch.random.fork_rng([weight.device] if weight.is_cuda else []):
        transformer = SpatialTransformer(in_channels, device=weight.device, dtype=weight.dtype)
    return nn.Sequential(OrderedDict(transformer=transformer, backbone=model)).train(model.training)


def dilate(model: Model, layers: int | str | Iterable[str], rate: int) -> Model:
    """Set the dilation of convolutions, with the padding that keeps the size of their output.

    Args:
        model: changed in place.
        layers: as for `deform`; offset convolutions are dilated together with their layers.
        rate: distance between neighbouring taps, at least 1.

    Returns:
        The model.

    Raises:
        LayerNotFoundError: as for `deform`.
        ValueError: a rate below 1; an even kernel, for which no padding keeps the size; or padding that is too small to
            take some away.
    """
    check_rate(rate)
    convs = convs_of(model)
    names = selected_layers(model, layers, convs, 3)
    for name in names:
        check_keeps_size(name, convs[name], rate)
    for name in names:
        conv = convs[name]
        for part in (conv, conv.offset_conv) if isinstance(conv, DeformConv2d | AddedConv2d) else (conv,):
            set_dilation(part, rate)
    return model


def dilate_offsets(model: Model, rate: int) -> Model:
    """Set the dilation of the convolutions that predict offsets; the deformable layers keep their dilation.

    Args:
        model: changed in place.
        rate: distance between neighbouring taps, at least 1.

    Returns:
        The model.

    Raises:
        ValueError: a rate below 1.
    """
    check_rate(rate)
    for conv in convs_of(model).values():
        if isinstance(conv, DeformConv2d | AddedConv2d):
            set_dilation(conv.offset_conv, rate)
    return model


def _warn_of_wide_branches(layers: list[nn.Module], parameters: int) -> None:
    """Warn where the dense branches of depthwise layers add a tenth of a model's parameters, or more."""
    wide = [layer for layer in layers if isinstance(layer, DeformConv2d) and layer.groups == layer.in_channels > 1]
    added = sum(parameter.numel() for layer in wide for parameter in layer.offset_conv.parameters())
    if added * 10 >= parameters and wide:
        taps = [(layer, layer.kernel_size[0] * layer.kernel_size[1]) for layer in wide]
        small = sum(layer.in_channels * (n + layer.offset_conv.out_channels) for layer, n in taps)
        small += sum(layer.offset_conv.out_channels for layer in wide)
        warnings.warn(
            f"deform: the offset branches of {len(wide)} depthwise layers add {added:,} parameters to the model's "
            f"{parameters:,}; offset_branch='depthwise' adds {small:,}",
            stacklevel=3,
        )
