"""Trunk: a convolutional network of torchvision or timm as a backbone, at output stride 16 or 32."""

from __future__ import annotations

from typing import Any, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional

from dcnlab.io.errors import ConfigError
from dcnlab.models.library_network import SIDE, STAGE_STRIDES, feature_network, map_sizes, whole_network
from dcnlab.models.library_weights import load_library
from dcnlab.models.resnet import SurgeryOptions, operate
from dcnlab.models.trunk_freezing import FreezableBackbone, freeze
from dcnlab.nn.padding import pads_as_tensorflow
from dcnlab.surgery import transform_input


class Trunk(FreezableBackbone):
    """The maps of a library's network, res2 to res5 by their strides.

    Args:
        network: gives several maps of an image, in a list or a dict.
        keys: of each stage's map among them.

    Attributes:
        channels: of each stage's map, by its name in the paper, res2 to res5.
        strides: pixels of the image between neighbouring features, likewise.
    """

    def __init__(self, network: nn.Module, keys: dict[str, Any]) -> None:
        super().__init__()
        self.network, self.keys = network, keys
        self.channels: dict[str, int] = {}
        self.strides = {stage: STAGE_STRIDES[stage] for stage in keys}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Features of images (N, 3, H, W), by stage: (N, channels, ceil(H / stride), ceil(W / stride))."""
        maps = self.network(images)
        return {stage: maps[key] for stage, key in self.keys.items()}

    def measure(self, name: str) -> None:
        """Read channels and strides off the maps of an image.

        Raises:
            ConfigError: a map is none of (N, C, H, W), or has another stride than it should.
        """
        network = self.network.eval()
        try:
            with torch.no_grad():
                maps = self(torch.zeros(1, 3, SIDE // 4, SIDE // 4))
        except Exception as error:  # a network may fail in any way on an image of another size than its own
            raise ConfigError(f"model.backbone.name is {name!r}, which does not take any image size") from error
        network.train()
        for stage, features in maps.items():
            if features.shape[2:] != (SIDE // 4 // self.strides[stage],) * 2:
                raise ConfigError(
                    f"model.backbone.name is {name!r}, whose {stage} cannot have stride {self.strides[stage]}: it "
                    f"gives {tuple(features.shape)} for an image of {SIDE // 4} pixels; take another, such as resnet50"
                )
            self.channels[stage] = features.shape[1]


class UnstridedPool(nn.Module):
    """A pooling whose stride was removed; the map keeps its size, and every other value is the strided pooling's.

    Args:
        pool: with a stride of 1.
        after: rows and columns to add behind, beyond the pooling's own padding.
    """

    def __init__(self, pool: nn.Module, after: int) -> None:
        super().__init__()
        self.pool, self.after = pool, after

    def forward(self, features: Tensor) -> Tensor:
        """Pool (N, C, H, W)."""
        return self.pool(functional.pad(features, (0, self.after, 0, self.after), mode="replicate"))


def trunk(
    name: str,
    library: tuple[str, str],
    weights: str = "none",
    output_stride: int = 16,
    deform_layers: int = 0,
    dilation: int = 2,
    freeze_norm: bool = False,
    freeze_at: int | str = 0,
    last: str = "res5",
    **layers: Unpack[SurgeryOptions],
) -> Trunk:
    """Build the features of a network of torchvision or timm.

    Args:
        name: `model.backbone.name`.
        library: from `names.library_of`.
        weights: see :func:`load_library`.
        output_stride: of res5: 16, the last stage's stride taken away; or 32.
        deform_layers: see :func:`operate`.
        dilation: of all convolutions of the last stage whose kernels are odd and above 1x1.
        freeze_norm: keep statistics, scale and shift of the batch norms as they are.
        freeze_at: stages that are not trained: 0 none, 1 the first convolution and its norm, 2 res2 too, up to 5; all.
        last: the last stage that is built: res5, or res4, for another network on it.
        **layers: further options of :func:`operate`.

    Raises:
        ConfigError: no maps of these strides or no such weights, or they do not fit; one line.
    """
    model = Trunk(*feature_network(*library, last))
    sizes = map_sizes(model)
    last_stage = _last_stage(model, sizes) if last == "res5" else []
    if output_stride == 16 and last == "res5":
        _remove_stride(model, sizes)
        model.strides["res5"] = 16
    model.measure(name)
    operate(model, name, deform_layers, dilation if last_stage else 1, last_stage=last_stage, **layers)
    load_library(model, name, library, weights)
    freeze(model, name, freeze_norm, freeze_at)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # as the operators have it


def library_classifier(
    name: str,
    library: tuple[str, str],
    num_classes: int,
    weights: str = "none",
    deform_layers: int = 0,
    dilation: int = 1,
    spatial_transformer: bool = False,
    **layers: Unpack[SurgeryOptions],
) -> nn.Module:
    """Build a whole network of torchvision or timm, with its strides, that classifies.

    Args:
        name: as for :func:`trunk`.
        library: likewise.
        num_classes: size of the last layer.
        weights: likewise.
        deform_layers: likewise.
        dilation: likewise.
        spatial_transformer: put one in front; its parts are then `transformer` and `backbone`.
        **layers: likewise.

    Raises:
        ConfigError: no such weights, or they do not fit; one line.
    """
    model = whole_network(*library, num_classes)
    last_stage = _last_stage(model, map_sizes(model)) if dilation > 1 else []
    operate(model, name, deform_layers, dilation if last_stage else 1, last_stage=last_stage, **layers)
    load_library(model, name, library, weights)
    if spatial_transformer:
        model = transform_input(model)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _last_stage(model: nn.Module, sizes: dict[str, tuple[int, int]]) -> list[str]:
    """Names of the convolutions that give maps of stride 32, with odd kernels above 1x1."""
    modules = dict(model.named_modules())
    return [
        name
        for name, (_, side) in sizes.items()
        if side == SIDE // 32
        and isinstance(conv := modules[name], nn.Conv2d)
        and max(conv.kernel_size) > 1
        and all(k % 2 for k in conv.kernel_size)
    ]


def _remove_stride(model: nn.Module, sizes: dict[str, tuple[int, int]]) -> None:
    """Let the layers between stride 16 and 32 keep the size of their maps, with the taps where they are."""
    for name, (before, after) in sizes.items():
        if (before, after) != (SIDE // 16, SIDE // 32):
            continue
        parent_name, _, child = name.rpartition(".")
        parent = model.get_submodule(parent_name)
        layer = parent.get_submodule(child)
        if isinstance(layer, nn.Conv2d):
            _unstride(layer)
        elif isinstance(layer, nn.MaxPool2d | nn.AvgPool2d):
            kernel, padding = layer.kernel_size, layer.padding
            kernel, padding = (value if isinstance(value, int) else value[0] for value in (kernel, padding))
            layer.stride = 1
            layer.ceil_mode = False
            setattr(parent, child, UnstridedPool(layer, max(kernel - 1 - 2 * padding, 0)))


def _unstride(conv: nn.Conv2d) -> None:
    conv.stride = (1, 1)
    if pads_as_tensorflow(conv) or isinstance(conv.padding, str):
        return
    total = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
    before = [pixels // 2 for pixels in total]
    if list(conv.padding) == before and any(pixels % 2 for pixels in total):
        conv.padding = "same"  # torch's, which adds the odd pixel behind
        sides = [(first, pixels - first) for first, pixels in zip(before, total, strict=True)]
        conv._reversed_padding_repeated_twice = [pixels for pair in reversed(sides) for pixels in pair]
