"""Parameter groups and the learning rate's course, worked by hand."""

import pytest
import torch
from torch import nn

from dcnlab.config.schema import OptimConfig
from dcnlab.nn import ActiveConv2d, AddedConv2d
from dcnlab.surgery import transform_input
from dcnlab.tasks.optim import optimizer_and_schedule, parameter_groups, rate_factor


class Offsets(nn.Module):
    """A layer with an offset convolution, as dcnlab.nn's are."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4, 4, 3, 3))
        self.bias = nn.Parameter(torch.zeros(4))
        self.offset_conv = nn.Conv2d(4, 18, 3)


def small_net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), Offsets(), nn.Linear(4, 2))


def test_offsets_learn_at_their_own_rate_and_only_weights_decay():
    """Weights, biases and norms, and offset weights and biases are separate groups."""
    groups = parameter_groups(small_net(), OptimConfig(lr=0.2, weight_decay=0.01, offset_lr_scale=0.1))
    told = {
        g["name"]: (pytest.approx(g["lr"]), g["weight_decay"], [tuple(p.shape) for p in g["params"]]) for g in groups
    }
    assert told == {
        "weights": (0.2, 0.01, [(4, 3, 3, 3), (4, 4, 3, 3), (2, 4)]),
        "biases and norms": (0.2, 0.0, [(4,), (4,), (4,), (4,), (2,)]),
        "offset weights": (0.02, 0.01, [(18, 4, 3, 3)]),
        "offset biases and norms": (0.02, 0.0, [(18,)]),
    }


def test_active_and_transformer_parameters_have_own_rates():
    """Active offsets and the localization net are groups with their own scale of the rate."""
    net = transform_input(nn.Sequential(ActiveConv2d(3, 4, 3)))
    optim = OptimConfig(lr=0.2, weight_decay=0.01, active_offset_lr_scale=0.5, localisation_lr_scale=0.1)
    told = {
        g["name"]: (pytest.approx(g["lr"]), g["weight_decay"], len(g["params"])) for g in parameter_groups(net, optim)
    }
    assert told == {
        "weights": (0.2, 0.01, 1),
        "biases and norms": (0.2, 0.0, 1),
        "active offset biases and norms": (0.1, 0.0, 1),
        "localisation weights": (0.02, 0.01, 4),
        "localisation biases and norms": (0.02, 0.0, 4),
    }


def test_a_control_learns_at_the_offset_rate():
    """Its offset convolution learns at offset_lr_scale times the rate, its 1x1 convolution at the base rate."""
    optim = OptimConfig(lr=0.2, weight_decay=0.01, offset_lr_scale=0.5)
    groups = parameter_groups(nn.Sequential(AddedConv2d(3, 4, 3, bias=False)), optim)
    assert {g["name"]: (g["lr"], [tuple(p.shape) for p in g["params"]]) for g in groups} == {
        "weights": (0.2, [(4, 3, 3, 3), (4, 18, 1, 1)]),
        "offset weights": (0.1, [(18, 3, 3, 3)]),
        "offset biases and norms": (0.1, [(18,)]),
    }


def test_frozen_parameters_and_empty_groups_are_left_out():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, bias=False))
    net[0].requires_grad_(False)
    groups = parameter_groups(net, OptimConfig())
    assert [(g["name"], len(g["params"])) for g in groups] == [("weights", 1)]


def test_the_rate_drops_tenfold_at_fractions_and_at_steps():
    """Milestones below 1 are fractions of the training, others are steps."""
    optim = OptimConfig(milestones=[0.6, 90])
    rates = [rate_factor(step, 100, optim) for step in (0, 59, 60, 89, 90, 99)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_warmup_grows_linearly_to_the_full_rate():
    optim = OptimConfig(milestones=[], warmup=4)
    assert [rate_factor(step, 100, optim) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]


def test_a_constant_warmup_ends_in_one_step():
    """The rate is a tenth of the base one for `warmup` steps, and all of it from the next step on."""
    optim = OptimConfig(milestones=[0.5], warmup=3, warmup_kind="constant", warmup_factor=0.1)
    assert [rate_factor(step, 10, optim) for step in range(7)] == pytest.approx([0.1, 0.1, 0.1, 1, 1, 0.1, 0.1])


def test_a_heads_biases_have_a_group_at_their_own_rate():
    """`bias_lr_scale` raises the rate of the head's biases alone: not of weights, norms, offsets or the backbone."""
    net = nn.Module()
    net.backbone, net.reduce, net.classify = small_net(), nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1)
    found = parameter_groups(net, OptimConfig(lr=0.2, weight_decay=0.01, bias_lr_scale=2.0, reduce_lr_scale=3.0))
    told = {group["name"]: (pytest.approx(group["lr"]), [tuple(p.shape) for p in group["params"]]) for group in found}
    assert told["head biases"] == (0.4, [(5,)])
    assert told["reduce head biases"] == (1.2, [(4,)])
    assert told["biases and norms"] == (0.2, [(4,), (4,), (4,), (4,), (2,)])
    assert [group["weight_decay"] for group in found if "head" in group["name"]] == [0.0, 0.0]
    before = parameter_groups(net, OptimConfig(lr=0.2))
    assert not [group for group in before if "head" in group["name"]]


def test_the_cosine_starts_after_warm_up_and_ends_at_zero():
    """By hand: 1 at step 20, 1/2 at step 60 and 0 at step 100."""
    optim = OptimConfig(schedule="cosine", warmup=20)
    rates = [rate_factor(step, 100, optim) for step in (0, 19, 20, 60, 100)]
    assert rates == pytest.approx([0.05, 1, 1, 0.5, 0], abs=1e-12)


def rates_of(schedule, optimizer, steps):
    """The rate of every group at each step."""
    rates = []
    for _ in range(steps):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    return rates


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 10, 97])
def test_one_cycle_equals_torchs_in_every_group(steps):
    """The oracle is OneCycleLR with the groups' rates as peaks; warm-up and milestones have no part."""
    optim = OptimConfig(lr=0.2, schedule="one_cycle", offset_lr_scale=0.1, milestones=[0.5], warmup=5)
    ours = rates_of(*optimizer_and_schedule(small_net(), optim, steps)[::-1], steps)
    optimizer = torch.optim.SGD(parameter_groups(small_net(), optim), lr=0.2)
    peaks = [group["lr"] for group in optimizer.param_groups]
    torchs = torch.optim.lr_scheduler.OneCycleLR(optimizer, peaks, total_steps=steps, cycle_momentum=False)
    rates = [[group["lr"] for group in optimizer.param_groups]]
    for _ in range(steps - 1):
        optimizer.step()
        torchs.step()
        rates.append([group["lr"] for group in optimizer.param_groups])
    assert [pytest.approx(row, rel=1e-9) for row in rates] == ours
    assert len({round(row[0] / row[2], 6) for row in ours}) == 1


def test_one_cycle_resumes_at_the_rate_it_stopped_at():
    """The states of step 4, loaded into a new optimizer and schedule, give the rates of an uninterrupted training."""
    optim = OptimConfig(lr=0.2, schedule="one_cycle", offset_lr_scale=0.1)
    optimizer, schedule = optimizer_and_schedule(small_net(), optim, 10)
    rates_of(schedule, optimizer, 4)
    states = optimizer.state_dict(), schedule.state_dict()
    rest = rates_of(schedule, optimizer, 6)
    resumed, resumed_schedule = optimizer_and_schedule(small_net(), optim, 10)
    resumed.load_state_dict(states[0])
    resumed_schedule.load_state_dict(states[1])
    assert rates_of(resumed_schedule, resumed, 6) == rest
    assert rest[0][0] != pytest.approx(rest[1][0])


def test_poly_equals_torchs_polynomial_rate():
    """The oracle is PolynomialLR of DeepLab's power 0.9."""
    optim = OptimConfig(lr=0.2, schedule="poly")
    optimizer = torch.optim.SGD(small_net().parameters(), lr=1.0)
    torchs = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=50, power=0.9)
    rates = [row[0] for row in rates_of(torchs, optimizer, 51)]
    assert [rate_factor(step, 50, optim) for step in range(51)] == pytest.approx(rates, abs=1e-9)


def test_adamw_uses_the_sgd_groups_and_momentum_as_beta1():
    """Biases and norms get no weight decay; the first beta is optim.momentum."""
    optimizer, _ = optimizer_and_schedule(small_net(), OptimConfig(name="adamw", momentum=0.8, weight_decay=0.01), 4)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert [(g["betas"], g["weight_decay"]) for g in optimizer.param_groups] == [
        ((0.8, 0.999), decay) for decay in (0.01, 0.0, 0.01, 0.0)
    ]


def test_the_schedule_scales_every_group():
    """All groups keep their ratio through warm-up and milestones."""
    optim = OptimConfig(lr=1.0, offset_lr_scale=0.5, milestones=[0.5], warmup=2)
    optimizer, schedule = optimizer_and_schedule(small_net(), optim, 4)
    seen = []
    for _ in range(4):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    assert [rates[0] for rates in seen] == pytest.approx([0.5, 1.0, 0.1, 0.1])
    assert [rates[2] for rates in seen] == pytest.approx([0.25, 0.5, 0.05, 0.05])


def test_the_head_learns_at_a_rate_apart():
    """All but backbone and offsets gets head_lr_scale; reduce and biases multiply it; by default nothing changes."""
    net = nn.ModuleDict({"backbone": Offsets(), "reduce": nn.Conv2d(4, 4, 1), "classify": nn.Conv2d(4, 2, 1)})
    optim = OptimConfig(lr=0.1, weight_decay=0.01, head_lr_scale=10, reduce_lr_scale=3, bias_lr_scale=2)
    told = {
        g["name"]: (pytest.approx(g["lr"]), [tuple(p.shape) for p in g["params"]]) for g in parameter_groups(net, optim)
    }
    assert told == {
        "weights": (0.1, [(4, 4, 3, 3)]),
        "biases and norms": (0.1, [(4,)]),
        "offset weights": (0.1, [(18, 4, 3, 3)]),
        "offset biases and norms": (0.1, [(18,)]),
        "head weights": (1.0, [(2, 4, 1, 1)]),
        "head biases": (2.0, [(2,)]),
        "reduce weights": (3.0, [(4, 4, 1, 1)]),
        "reduce head biases": (6.0, [(4,)]),
    }
    names = [group["name"] for group in parameter_groups(net, OptimConfig())]
    assert names == ["weights", "biases and norms", "offset weights", "offset biases and norms", *names[4:]]
    assert not any("head" in name for name in names)


def test_poly_falls_to_zero_by_its_power():
    """DeepLab's schedule: (1 - t) to the power 0.9, from the end of the warm-up on."""
    optim = OptimConfig(schedule="poly", warmup=10)
    assert rate_factor(4, 110, optim) == pytest.approx(0.5)
    assert rate_factor(10, 110, optim) == 1
    assert rate_factor(60, 110, optim) == pytest.approx(0.5**0.9)
    assert rate_factor(110, 110, optim) == 0
    optim.poly_power = 2
    assert rate_factor(60, 110, optim) == pytest.approx(0.25)
