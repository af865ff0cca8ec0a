"""Parameter groups and the learning rate's course, worked by hand."""

import pytest
import torch
from torch import nn

from dcnlab.config import OptimConfig
from dcnlab.tasks.optim import parameter_groups, rate_factor, sgd


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


def test_frozen_parameters_and_empty_groups_are_left_out():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, bias=False))
    net[0].requires_grad_(False)
    groups = parameter_groups(net, OptimConfig())
    assert [(g["name"], len(g["params"])) for g in groups] == [("weights", 1)]


def test_the_rate_drops_tenfold_at_fractions_and_at_steps():
    assert [rate_factor(step, 100, [0.6, 90], 0) for step in (0, 59, 60, 89, 90, 99)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 0.01]
    )


def test_warmup_grows_linearly_to_the_full_rate():
    assert [rate_factor(step, 100, [], 4) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]


def test_the_schedule_scales_every_group():
    optimizer, schedule = sgd(small_net(), OptimConfig(lr=1.0, offset_lr_scale=0.5, milestones=[0.5], warmup=2), 4)
    seen = []
    for _ in range(4):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    assert [rates[0] for rates in seen] == pytest.approx([0.5, 1.0, 0.1, 0.1])
    assert [rates[2] for rates in seen] == pytest.approx([0.25, 0.5, 0.05, 0.05])
