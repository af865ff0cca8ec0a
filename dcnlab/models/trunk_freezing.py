"""Freezes backbones: all of one, or the first stages or the norms of a trunk."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torchvision.ops import FrozenBatchNorm2d

from dcnlab.io.errors import ConfigError
from dcnlab.nn import trial_pass


class FreezableBackbone(nn.Module):
    """A backbone that may be frozen whole: it then stays in evaluation mode, and no parameter gets a gradient."""

    is_frozen = False

    def freeze_all(self) -> None:
        """Freeze all parameters, and the statistics of the norms."""
        self.is_frozen = True
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        """Set the mode, if the backbone is not frozen."""
        return super().train(mode and not self.is_frozen)


class FrozenNorm(FrozenBatchNorm2d):
    """A batch norm with its numbers fixed, and the activation that timm's norms contain.

    Args:
        norm: a batch norm, perhaps with `drop` and `act`.
    """

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__(norm.num_features, norm.eps)
        self.drop: Any = getattr(norm, "drop", nn.Identity())
        self.act: Any = getattr(norm, "act", nn.Identity())
        self.load_state_dict(norm.state_dict())

    def forward(self, features: Tensor) -> Tensor:
        """Scale and shift (N, C, H, W)."""
        return self.act(self.drop(super().forward(features)))


def freeze(model: Any, name: str, freeze_norm: bool, freeze_at: int | str) -> None:
    """Freeze the first stages of a trunk, in place, with their norms; or all batch norms.

    Args:
        model: a `Trunk`.
        name: of the network, for messages.
        freeze_norm: whether all batch norms are frozen.
        freeze_at: 0 none, 1 the first convolution and its norm, 2 what res2 is computed from too, up to 5;
            all, see :class:`FreezableBackbone`.

    Raises:
        ConfigError: the network has no batch norms to freeze.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    if freeze_norm and not norms:
        raise ConfigError(f"model.backbone.freeze_norm is true, but {name} has no batch norms; set false")
    if freeze_at == "all":
        model.freeze_all()
        return
    frozen = _stem(model) if freeze_at else set()
    if int(freeze_at) > 1:
        frozen |= _parameters_of(model, min(f"res{freeze_at}", max(model.keys)))
    for module_name, module in list(model.named_modules()):
        prefix = f"{module_name}." if module_name else ""
        keys = [key for key, _ in module.named_parameters(recurse=False)]
        mine = [key for key in keys if prefix + key in frozen]
        for key in mine:
            getattr(module, key).requires_grad_(False)
        if isinstance(module, nn.BatchNorm2d) and (freeze_norm or mine):
            parent, _, child = module_name.rpartition(".")
            setattr(model.get_submodule(parent), child, FrozenNorm(module))


def _stem(model: nn.Module) -> set[str]:
    """The parameters that a pass uses before its second convolution."""
    used: dict[str, nn.Module] = {}
    with trial_pass.without_a_trace(model):
        for name, module in model.named_modules():
            module.register_forward_pre_hook(lambda module, _, name=name: used.setdefault(name, module))
        trial_pass.run_on_shapes(model, None, 3)
    names: list[str] = []
    convolutions = 0
    for name, module in used.items():
        convolutions += isinstance(module, nn.Conv2d)
        if convolutions > 1:
            break
        names += [f"{name}.{key}" if name else key for key, _ in module.named_parameters(recurse=False)]
    return set(names)


def _parameters_of(model: Any, stage: str) -> set[str]:
    """The parameters that a stage's map depends on, found by its gradient on shapes alone."""
    parameters = {
        name: torch.empty_like(parameter, device="meta").requires_grad_()
        for name, parameter in model.named_parameters()
    }
    buffers = {name: torch.empty_like(buffer, device="meta") for name, buffer in model.named_buffers()}
    training = model.training
    with torch.enable_grad():
        features = functional_call(model.eval(), {**parameters, **buffers}, torch.empty(1, 3, 64, 64, device="meta"))
    model.train(training)
    gradients = torch.autograd.grad(features[stage].sum(), list(parameters.values()), allow_unused=True)
    return {name for name, gradient in zip(parameters, gradients, strict=True) if gradient is not None}
