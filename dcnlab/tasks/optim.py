"""Optimizer and schedule: SGD or AdamW; by steps, cosine, poly or one cycle; separate rates of offsets and the head."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from dcnlab.config.schema import OptimConfig


def parameter_groups(model: nn.Module, optim: OptimConfig) -> list[dict[str, Any]]:
    """Sort a model's parameters by what they are: weights, or biases and norms; of offset layers, of others.

    Offset convolutions, the modules called `offset_conv`, learn at `offset_lr_scale` times the base rate (the paper's
    beta), the fully connected layers of deformable RoI pooling, called `offset_fc`, at `pooling_offset_lr_scale` times
    it, active convolutions' own `offset` at `active_offset_lr_scale` times it, and a spatial transformer's net, called
    `localisation`, at `localisation_lr_scale` times it. All else that is not the `backbone` learns at `head_lr_scale`
    times the base rate, and a head's 1x1 convolution, the model's `reduce`, at `reduce_lr_scale` times that. The 1x1
    convolution of a control, `added`, learns at the base rate. Biases, the parameters of norms and active offsets, all
    of one axis, get no weight decay; a head's biases learn at `bias_lr_scale` times the rate of its weights. Frozen
    parameters are left out.

    Args:
        model: any network.
        optim: rates and decay.

    Returns:
        Groups for a torch optimizer, each with its `name`; no empty ones.
    """
    kinds = {
        "": 1.0,
        "offset ": optim.offset_lr_scale,
        "pooling offset ": optim.pooling_offset_lr_scale,
        "active offset ": optim.active_offset_lr_scale,
        "localisation ": optim.localisation_lr_scale,
        "head ": optim.head_lr_scale,
        "reduce ": optim.head_lr_scale * optim.reduce_lr_scale,
    }
    groups: dict[tuple[str, bool], dict[str, Any]] = {
        (kind, decays): {
            "name": kind + ("weights" if decays else "biases and norms"),
            "params": [],
            "lr": optim.lr * scale,
            "weight_decay": optim.weight_decay if decays else 0.0,
        }
        for kind, scale in kinds.items()
        for decays in (True, False)
    }
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            kind = _kind(name.split("."), optim.head_lr_scale != 1)
            groups[kind, parameter.ndim > 1]["params"].append(parameter)
    if optim.bias_lr_scale != 1:
        _divide_biases(model, groups, optim)
    return [group for group in groups.values() if group["params"]]


def _divide_biases(model: nn.Module, groups: dict[tuple[str, bool], dict[str, Any]], optim: OptimConfig) -> None:
    """Move the biases of a head's convolutions and linear layers into groups of another rate."""
    layers = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and name.split(".")[0] != "backbone"
    ]
    biases = {id(layer.bias) for layer in layers}
    for kind in ("head " if optim.head_lr_scale != 1 else "", "reduce "):
        group = groups[kind, False]
        moved = [parameter for parameter in group["params"] if id(parameter) in biases]
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in biases]
        prefix = kind if kind == "head " else f"{kind}head "
        groups[f"{prefix}biases", False] = {
            **group,
            "name": f"{prefix}biases",
            "params": moved,
            "lr": group["lr"] * optim.bias_lr_scale,
        }


def _kind(names: list[str], head_is_apart: bool) -> str:
    if "offset_conv" in names:
        return "offset "
    if "offset_fc" in names:
        return "pooling offset "
    if names[-1] == "offset":
        return "active offset "
    if "localisation" in names:
        return "localisation "
    if names[0] == "reduce":
        return "reduce "
    return "head " if head_is_apart and names[0] != "backbone" else ""


_RISE, _START, _END = 0.3, 1 / 25, 1 / 25 / 1e4
"""Of one cycle: fraction of the steps, and its first and last rate over its largest; torch's defaults."""


def rate_factor(step: int, total_steps: float, optim: OptimConfig) -> float:
    """Learning rate of a step over the base rate.

    Args:
        step: from 0.
        total_steps: of the whole training.
        optim: `warmup` steps of linear growth (step 0 gets 1 / warmup of the rate, step warmup - 1 all of it), or of
            `warmup_factor` times the rate where it is constant; times the schedule: tenfold drops at `milestones`,
            fractions of total_steps below 1 and steps from 1 up; or, from the end of the warm-up to total_steps,
            half a cosine or the fraction that is left to the power `poly_power` (DeepLab's schedule). one_cycle has
            no warm-up: it is torch's OneCycleLR, which starts at 1/25, is 1 after three tenths of the steps, and ends
            at 1/250000.
    """
    if optim.schedule == "one_cycle":
        return _one_cycle(step, total_steps)
    grown = 1.0
    if step < optim.warmup:
        grown = optim.warmup_factor if optim.warmup_kind == "constant" else (step + 1) / optim.warmup
    if optim.schedule != "step":
        passed = min(1.0, max(0.0, step - optim.warmup) / max(1.0, total_steps - optim.warmup))
        if optim.schedule == "poly":
            return float(grown * (1 - passed) ** optim.poly_power)
        return grown * (1 + math.cos(math.pi * passed)) / 2
    return grown * 0.1 ** sum(step >= (m * total_steps if m < 1 else m) for m in optim.milestones)


def _one_cycle(step: int, total_steps: float) -> float:
    """Up by half a cosine, and down by another; the last step of a training has the smallest rate."""
    top, last = _RISE * total_steps - 1, total_steps - 1
    if step <= top:
        return _between(_START, 1.0, step / top if top else 0.0)
    return _between(1.0, _END, min(1.0, (step - top) / (last - top)))


def _between(first: float, last: float, passed: float) -> float:
    """The value after a fraction of the way between two values, by half a cosine."""
    return last + (first - last) / 2 * (1 + math.cos(math.pi * passed))


MOST_RATES = 4
"""That are logged in addition to the base rate; of more groups only the base rate is."""


def rates_of(optimizer: Optimizer) -> dict[str, Tensor]:
    """The learning rates by name: `lr`, the base rate, and `lr/GROUP` of groups of another rate, if they are few.

    Args:
        optimizer: whose first group learns at the base rate.

    Returns:
        Scalars in double precision, so that they are logged as they are.
    """
    base = float(optimizer.param_groups[0]["lr"])
    others: dict[str, float] = {}
    for number, group in enumerate(optimizer.param_groups):
        name = str(group.get("name", number)).removesuffix(" weights").removesuffix(" biases and norms")
        if group["lr"] != base:
            others.setdefault(f"lr/{name}", float(group["lr"]))
    rates = {"lr": base, **(others if len(others) <= MOST_RATES else {})}
    return {name: torch.tensor(rate, dtype=torch.float64) for name, rate in rates.items()}


def optimizer_and_schedule(model: nn.Module, optim: OptimConfig, total_steps: float) -> tuple[Optimizer, LambdaLR]:
    """Build the optimizer and its schedule, which advances by a step, not by an epoch."""
    groups = parameter_groups(model, optim)
    optimizer: Optimizer
    if optim.name == "adamw":
        optimizer = AdamW(groups, lr=optim.lr, betas=(optim.momentum, 0.999))
    else:
        optimizer = SGD(groups, lr=optim.lr, momentum=optim.momentum)
    return optimizer, LambdaLR(optimizer, lambda step: rate_factor(step, total_steps, optim))
