"""Networks of torchvision and timm: whole ones, which classify, and their maps of stride 4, 8, 16 and 32."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor

from dcnlab.config import libraries
from dcnlab.io.errors import ConfigError
from dcnlab.io.text import one_line
from dcnlab.nn import trial_pass

STAGE_STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
"""Strides of the four stages, pixels of the image, by their names in the paper."""
SIDE = 256
"""Side of the image on whose shapes maps and strides are found, pixels."""


def whole_network(library: str, name: str, num_classes: int) -> nn.Module:
    """A library's classifier with new weights.

    Args:
        library: timm or torchvision.
        name: of the network there.
        num_classes: size of the last layer.
    """
    if library == "timm":
        return libraries.timm().create_model(name, num_classes=num_classes)
    options = {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
    return models.get_model(name, num_classes=num_classes, **options)


def feature_network(library: str, name: str, last: str = "res5") -> tuple[nn.Module, dict[str, Any]]:
    """A library's network without its head, with new weights.

    Args:
        library: timm or torchvision.
        name: of the network there.
        last: the last stage whose map is wanted; what follows it is left out.

    Returns:
        The network, which gives several maps of an image; and the key of each stage's map among them.

    Raises:
        ConfigError: it gives no maps of these strides, as most transformers.
    """
    stages = tuple(STAGE_STRIDES)
    wanted = stages[: stages.index(last) + 1]
    return _timms(name, wanted) if library == "timm" else _torchvisions(name, wanted)


def map_sizes(network: nn.Module) -> dict[str, tuple[int, int]]:
    """Side of the input and of the output of the modules that turn a map into a map, in the order of their ends.

    Found on the shapes of an image of `SIDE` pixels. Modules whose maps are not square are left out.
    """
    sizes: dict[str, tuple[int, int]] = {}

    def note(name: str, inputs: Any, output: Any) -> None:
        input: Any = inputs[0] if inputs else None
        if all(isinstance(x, Tensor) and x.ndim == 4 and x.shape[2] == x.shape[3] for x in (input, output)):
            sizes.setdefault(name, (input.shape[2], output.shape[2]))

    with trial_pass.without_a_trace(network):
        for name, module in network.named_modules():
            module.register_forward_hook(lambda _, inputs, output, name=name: note(name, inputs, output))
        trial_pass.run_on_shapes(network, torch.zeros(1, 3, SIDE, SIDE), 3)
    return sizes


def _timms(name: str, wanted: tuple[str, ...]) -> tuple[nn.Module, dict[str, Any]]:
    try:
        network = libraries.timm().create_model(name, features_only=True)
    except Exception as error:  # timm raises many kinds of errors for networks without features
        raise _no_maps(name, one_line(error)) from error
    positions = {stride: index for index, stride in enumerate(network.feature_info.reduction())}
    if not set(STAGE_STRIDES.values()) <= set(positions):
        raise _no_maps(name, f"its strides are {', '.join(map(str, network.feature_info.reduction()))}")
    places = {stage: positions[STAGE_STRIDES[stage]] for stage in wanted}
    if len(wanted) == len(STAGE_STRIDES):
        return network, places
    shorter = libraries.timm().create_model(name, features_only=True, out_indices=tuple(places.values()))
    return shorter, {stage: number for number, stage in enumerate(wanted)}


def _torchvisions(name: str, wanted: tuple[str, ...]) -> tuple[nn.Module, dict[str, Any]]:
    network = whole_network("torchvision", name, 1000)
    sizes = map_sizes(network)
    units = sorted(_units(network, "", sizes), key=list(sizes).index)
    last = {sizes[unit][1]: unit for unit in units}
    if not all(SIDE // stride in last for stride in STAGE_STRIDES.values()):
        raise _no_maps(name, "its maps have other sizes or forms")
    nodes = {last[SIDE // STAGE_STRIDES[stage]]: stage for stage in wanted}
    try:
        return create_feature_extractor(network, nodes), {stage: stage for stage in wanted}
    except ValueError as error:
        raise _no_maps(name, one_line(error)) from error


def _units(module: nn.Module, name: str, sizes: dict[str, tuple[int, int]]) -> Iterator[str]:
    """The largest modules, of those that follow each other, in which a map shrinks at most by half."""
    children = list(module.named_children())
    if name in sizes and (not children or sizes[name][0] <= 2 * sizes[name][1]):
        yield name
        return
    for child, part in children:
        yield from _units(part, f"{name}.{child}" if name else child, sizes)


def _no_maps(name: str, why: str) -> ConfigError:
    why = re.sub(r"[.\s]+$", "", why)
    return ConfigError(
        f"model.backbone.name is {name!r}, which gives no maps (N, C, H, W) of strides 4, 8, 16 and 32 ({why}); take a "
        "convolutional network, such as resnet50"
    )
