"""Backbones of dense tasks: residual networks (paper, section 4.1): output stride 16, dilated, deformable."""

from __future__ import annotations

from typing import Any, Unpack

import torch
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck
from torchvision.ops import FrozenBatchNorm2d

from dcnlab.io.errors import ConfigError
from dcnlab.models.resnet import SurgeryOptions, operate, residual_network
from dcnlab.models.trunk_freezing import FreezableBackbone
from dcnlab.models.weights import load

STAGES = ("res2", "res3", "res4", "res5")


class Backbone(FreezableBackbone):
    """The stages of a residual network, under torchvision's names, so that its weights fit.

    Args:
        network: with conv1, bn1, relu, perhaps a maxpool before the stages, and layer1 to layer4.
        has_pool: whether that maxpool is there; the slim network's is its head's.

    Attributes:
        channels: of each stage's output, by its name in the paper, res2 to res5.
        strides: pixels of the image between neighbouring features, likewise.
    """

    def __init__(self, network: Any, has_pool: bool) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu = network.conv1, network.bn1, network.relu
        self.maxpool = network.maxpool if has_pool else nn.Identity()
        self.layer1, self.layer2 = network.layer1, network.layer2
        self.layer3, self.layer4 = network.layer3, network.layer4
        self.channels: dict[str, int] = {}
        self.strides: dict[str, int] = {}
        stride = self.conv1.stride[0] * (2 if has_pool else 1)
        for name, stage in zip(STAGES, self.stages(), strict=True):
            convs = [module for module in stage[0].modules() if isinstance(module, nn.Conv2d)]
            # The shortcut, if present, takes the whole step; other layers divide it.
            stride *= max(conv.stride[0] for conv in convs)
            norms = [module for module in stage.modules() if isinstance(module, nn.BatchNorm2d)]
            # The last norm is the sum's or the shortcut's, of as many channels.
            self.channels[name], self.strides[name] = norms[-1].num_features, stride

    def stages(self) -> list[Any]:
        """The stages, res2 to res5, or to res4 where res5 was removed."""
        return [self.layer1, self.layer2, self.layer3, self.layer4][: len(self.channels) or len(STAGES)]

    def remove_res5(self) -> None:
        """Take the last stage away."""
        self.layer4 = nn.Identity()
        del self.channels["res5"], self.strides["res5"]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Features of images (N, 3, H, W), by stage: (N, channels, ceil(H / stride), ceil(W / stride))."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        features = {}
        for name, stage in zip(self.channels, self.stages(), strict=True):
            features[name] = x = stage(x)
        return features


def backbone(
    name: str,
    weights: str = "none",
    output_stride: int = 16,
    deform_layers: int = 0,
    dilation: int = 2,
    stride_on_1x1: bool = False,
    freeze_norm: bool = False,
    freeze_at: int | str = 0,
    last: str = "res5",
    **layers: Unpack[SurgeryOptions],
) -> Backbone:
    """Build a residual network's features.

    Args:
        name: resnet18, 34, 50, 101, 152 as torchvision has them, resnet10_slim (output stride 8 in any case) or
            aligned_inception_resnet.
        weights: none; imagenet or imagenet_v2, torchvision's; or the path of a state dict or a checkpoint.
        output_stride: of res5: 16, its own stride taken away; or 32, as for classification.
        deform_layers: see :func:`.operate`.
        dilation: of all the 3x3 convolutions of res5, deformable or not.
        stride_on_1x1: let the first 1x1 convolution of a stage take its stride, as in the original ResNet; else the
            3x3 does, as in torchvision's.
        freeze_norm: keep statistics, scale and shift of the batch norms as they are.
        freeze_at: stages that are not trained: 0 none, 1 the stem, 2 res2 too, up to 5; all.
        last: the last stage that is kept: res5, or res4, for another network on it.
        **layers: further options of :func:`.operate`.

    Raises:
        ConfigError: no such network or weights, or they do not fit; one line.
    """
    network: Any = residual_network(name)
    stages = [network.layer1, network.layer2, network.layer3, network.layer4]
    if stride_on_1x1:
        if not isinstance(network.layer4[0], Bottleneck):
            raise ConfigError(f"model.backbone.stride_on_1x1 is true, but {name} has no bottleneck blocks; set false")
        for stage in stages[1:]:
            stage[0].conv1.stride, stage[0].conv2.stride = stage[0].conv2.stride, stage[0].conv1.stride
    if output_stride == 16:
        for module in network.layer4[0].modules():
            if isinstance(module, nn.Conv2d):
                module.stride = (1, 1)
    model = Backbone(network, has_pool=name != "resnet10_slim")
    operate(model, name, deform_layers, dilation, **layers)
    load(model, name, weights)
    if last == "res4":
        model.remove_res5()
    if freeze_at == "all":
        model.freeze_all()
    else:
        _freeze(model, freeze_norm, int(freeze_at))
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # as the operators have it


def _freeze(model: Backbone, freeze_norm: bool, freeze_at: int) -> None:
    parts: list[list[nn.Module]] = [[model.conv1, model.bn1], *([stage] for stage in model.stages())]
    for part in [module for modules in parts[:freeze_at] for module in modules]:
        part.requires_grad_(False)
    if freeze_norm or freeze_at > 0:
        model.bn1 = _frozen(model.bn1)
    for stage in model.stages() if freeze_norm else model.stages()[: max(0, freeze_at - 1)]:
        for module in list(stage.modules()):
            for name, child in module.named_children():
                setattr(module, name, _frozen(child))


def _frozen(module: nn.Module) -> nn.Module:
    """A batch norm with its numbers fixed; any other module as it is."""
    if not isinstance(module, nn.BatchNorm2d):
        return module
    frozen = FrozenBatchNorm2d(module.num_features, module.eps)
    frozen.load_state_dict(module.state_dict())
    return frozen
