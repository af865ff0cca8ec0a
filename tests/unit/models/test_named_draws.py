"""Each random parameter is drawn from a generator of the seed and its name; other layers do not change it."""

import copy

import pytest
import torch
from torch import nn

from dcnlab.data.seeding import mix
from dcnlab.models.named_draws import NamedDraws


def drawn(build, seed=3, before=0):
    """A network by its constructor, drawn by name; `before` seeds the global generator under it."""
    torch.manual_seed(before)
    with NamedDraws() as draws:
        network = build()
    draws.redraw(network, seed)
    return network


def generator(seed, name):
    return torch.Generator().manual_seed(mix(seed, *name.encode()))


def test_a_layer_is_drawn_from_seed_and_name():
    """A linear layer's weight and bias are torch's uniform draws by generators of (seed, name)."""
    network = drawn(lambda: nn.Sequential(nn.Linear(4, 5), nn.Linear(25, 3)), seed=7)
    for name, bound in (("0.weight", 1 / 2), ("0.bias", 1 / 2), ("1.weight", 1 / 5), ("1.bias", 1 / 5)):
        tensor = network.get_parameter(name)
        expected = torch.empty(tensor.shape).uniform_(-bound, bound, generator=generator(7, name))
        assert torch.equal(tensor, expected), name


class Many(nn.Module):
    """Parameters drawn in each way that networks have."""

    def __init__(self, first=None):
        super().__init__()
        self.first = first
        self.position = nn.Parameter(torch.randn(4, 6) * 0.02)
        self.token = nn.Parameter(nn.init.trunc_normal_(torch.empty(6), std=0.02))
        self.conv = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        self.conv.weight.data.normal_(0, 0.5)
        self.conv.bias.data.zero_()
        self.recurrent = nn.LSTM(4, 4)
        self.attention = nn.MultiheadAttention(4, 2)
        self.lookup = nn.Embedding(5, 3)
        self.norm = nn.BatchNorm2d(4)
        self.register_buffer("frequencies", torch.rand(3).double())
        self.half = nn.Linear(4, 4).half()


def test_every_kind_of_draw_is_found_and_follows_the_name():
    """The state of the global generator and a layer built before change nothing in what networks share."""
    plain = drawn(Many).state_dict()
    for twin in (drawn(Many, before=1), drawn(lambda: Many(nn.Conv2d(3, 3, 3)), before=2)):
        state = twin.state_dict()
        assert [name for name in plain if not torch.equal(plain[name], state[name])] == []
    other = drawn(Many, seed=4).state_dict()
    constant = [name for name in plain if torch.equal(plain[name], other[name])]
    biases = ["conv.bias", "attention.in_proj_bias", "attention.out_proj.bias"]
    assert sorted(constant) == sorted([*biases, *(name for name in plain if name.startswith("norm."))])
    assert plain["conv.weight"].std() == pytest.approx(0.5, rel=0.2)
    assert 0.01 < plain["position"].std() < 0.03
    assert plain["token"].abs().max() <= 0.1


def test_the_same_draws_in_two_orders_of_memory_are_equal():
    """A convolution in channels-last has the numbers of one in torch's own order."""
    last, first = (
        drawn(lambda: nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)),
        drawn(lambda: nn.Conv2d(3, 4, 3)),
    )
    assert torch.equal(last.weight, first.weight)
    assert last.weight.is_contiguous(memory_format=torch.channels_last)


def test_copies_of_a_drawn_tensor_stay_equal_to_it():
    """A deep copy, and a network that took another one's state, keep the other's numbers."""

    def build():
        network = nn.ModuleDict({"student": nn.Linear(3, 3), "taught": nn.Linear(3, 3)})
        network["teacher"] = copy.deepcopy(network["student"])
        network["taught"].load_state_dict(network["student"].state_dict())
        return network

    network = drawn(build, seed=5)
    assert torch.equal(network["student"].weight, network["teacher"].weight)
    assert torch.equal(network["student"].weight, network["taught"].weight)
    assert not torch.equal(network["student"].weight, drawn(build, seed=6)["student"].weight)


def test_what_is_not_a_draw_alone_stays_as_built():
    """Numbers from a file, orthogonal weights, rows set to zero and a caller's generator are not drawn again."""

    def build():
        network = nn.ModuleDict({name: nn.Linear(4, 4, bias=False) for name in ("file", "square", "own")})
        network["file"].load_state_dict({"weight": torch.arange(16.0).view(4, 4)})
        nn.init.orthogonal_(network["square"].weight)
        nn.init.normal_(network["own"].weight, generator=torch.Generator().manual_seed(1))
        network["padded"] = nn.Embedding(5, 3, padding_idx=2)
        return network

    network = drawn(build)
    square = network["square"].weight
    torch.manual_seed(0)
    built = build().state_dict()
    assert torch.equal(network["file"].weight, torch.arange(16.0).view(4, 4))
    assert torch.allclose(square @ square.T, torch.eye(4), atol=1e-6)
    assert all(torch.equal(value, built[name]) for name, value in network.state_dict().items())
    assert not network["padded"].weight[2].any()


def test_a_backbones_parameters_count_by_their_names_in_it():
    """A backbone within a network equals the network that it is by itself; a name that both have stays apart."""
    alone = drawn(lambda: nn.ModuleDict({"fc": nn.Linear(3, 3)}))
    within = drawn(lambda: nn.ModuleDict({"backbone": nn.ModuleDict({"fc": nn.Linear(3, 3)})}))
    both = drawn(lambda: nn.ModuleDict({"fc": nn.Linear(3, 3), "backbone": nn.ModuleDict({"fc": nn.Linear(3, 3)})}))
    assert torch.equal(alone["fc"].weight, within["backbone"]["fc"].weight)
    assert torch.equal(alone["fc"].weight, both["fc"].weight)
    assert not torch.equal(both["fc"].weight, both["backbone"]["fc"].weight)


def test_redrawing_leaves_the_global_generator_as_it_is():
    """Neither torch's state nor gradients' flags change."""
    with NamedDraws() as draws:
        network = nn.Linear(3, 3)
    state = torch.get_rng_state()
    draws.redraw(network, 0)
    assert torch.equal(torch.get_rng_state(), state)
    assert network.weight.requires_grad


def test_networks_without_numbers_are_left_alone():
    """On meta, and with lazy layers, there is nothing to draw."""
    with torch.device("meta"):
        assert drawn(lambda: nn.Linear(3, 3)).weight.is_meta
    lazy = drawn(lambda: nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 2)))
    assert torch.equal(lazy[1].weight, drawn(lambda: nn.Sequential(nn.Identity(), nn.Linear(3, 2)))[1].weight)
