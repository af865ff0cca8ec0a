"""AddedConv2d: a plain convolution until it learns, then one in parallel with two convolutions in a row."""

import math

import pytest
import torch
from timm.layers import Conv2dSame
from torch import nn

from dcnlab.models.counting import count_macs
from dcnlab.nn import AddedConv2d, DeformConv2d
from dcnlab.nn.offset_statistics import learns_offsets
from dcnlab.surgery import add_maps, conv_layers, deform, dilate

KINDS = (AddedConv2d, DeformConv2d)
OPTIONS = {"stride": 2, "padding": 2, "dilation": 2, "groups": 2, "dtype": torch.float64}


def trained(layer):
    """The layer with numbers everywhere."""
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.2)
    return layer


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("branch", ["dense", "depthwise"])
@pytest.mark.parametrize("mode", ["zeros", "reflect", "circular"])
def test_a_new_added_layer_equals_the_plain_convolution(mode, branch):
    """The 1x1 convolution starts at zero: nn.Conv2d's output for every padding mode, to the last bit."""
    plain = nn.Conv2d(4, 6, 3, **OPTIONS, padding_mode=mode)
    input = torch.randn(2, 4, 9, 10, dtype=torch.float64)
    layer = AddedConv2d.from_conv(plain, offset_groups=2, offset_branch=branch)
    assert torch.equal(layer(input), plain(input))
    before = plain.weight.detach().clone()
    layer.reset_parameters()
    assert not torch.equal(plain.weight, before)
    assert torch.equal(layer(input), plain(input))


def test_an_added_layer_is_three_convolutions_of_torch():
    """The plain output, and the maps of an nn.Conv2d of 36 channels through an nn.Conv2d of 1x1."""
    layer = trained(AddedConv2d(4, 6, 3, **OPTIONS, padding_mode="reflect", offset_groups=2))
    modules = [
        nn.Conv2d(4, 6, 3, **OPTIONS, padding_mode="reflect"),
        nn.Conv2d(4, 36, 3, **OPTIONS | {"groups": 1}, padding_mode="reflect"),
        nn.Conv2d(36, 6, 1, bias=False, dtype=torch.float64),
    ]
    parts = ({"weight": layer.weight, "bias": layer.bias}, layer.offset_conv.state_dict(), {"weight": layer.added})
    for module, state in zip(modules, parts, strict=True):
        module.load_state_dict(state)
    input = torch.randn(2, 4, 9, 10, dtype=torch.float64)
    torch.testing.assert_close(layer(input), modules[0](input) + modules[2](modules[1](input)))


def test_tensorflow_padding_is_kept():
    """A layer made of timm's Conv2dSame pads as that does, its offset convolution too."""
    plain = Conv2dSame(3, 4, 3, stride=2)
    layer = AddedConv2d.from_conv(plain)
    input = torch.randn(1, 3, 8, 9)
    assert layer.offset_conv(input).shape == (1, 18, 4, 5)
    torch.testing.assert_close(layer(input), plain(input))


@pytest.mark.parametrize(("branch", "groups"), [("dense", 1), ("dense", 4), ("depthwise", 1)])
def test_parameters_exceed_the_deformable_ones_by_the_1x1(branch, groups):
    """The branch has the deformable one's tensors; the 1x1 has 2 * groups * k * k * out_channels weights."""
    options = {"offset_groups": groups, "offset_branch": branch}
    added, deformable = AddedConv2d(8, 16, 3, **options), DeformConv2d(8, 16, 3, **options)
    ours, theirs = ({k: v.shape for k, v in layer.state_dict().items()} for layer in (added, deformable))
    assert {k: v for k, v in ours.items() if k != "added"} == theirs
    assert count(added) - count(deformable) == 2 * groups * 3 * 3 * 16


def test_multiply_adds_exceed_the_deformable_ones_by_the_1x1():
    """On a map of 5x6 pixels: 18 maps for each of 16 channels at 30 pixels."""
    added, deformable = (count_macs(kind(8, 16, 3, padding=1), torch.zeros(1, 8, 5, 6)) for kind in KINDS)
    assert added - deformable == 18 * 16 * 30
    assert deformable == (8 * 16 * 9 + 8 * 18 * 9) * 30


@pytest.mark.parametrize("branch", ["dense", "depthwise"])
def test_an_added_branch_learns(branch):
    """The 1x1 gets a gradient in the first step, the offset convolution in the second: two zeros would never."""
    layer = AddedConv2d(4, 6, 3, offset_branch=branch)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for expected in (False, True):
        optimizer.zero_grad()
        layer(torch.randn(2, 4, 7, 7)).square().sum().backward()
        assert bool(layer.added.grad.any())
        assert bool(layer.offset_conv.weight.grad.any()) == expected
        optimizer.step()


def test_the_branch_is_drawn_as_torchs_convolutions_are():
    """Uniform within 1 / sqrt(fan in), its bias zero; from_conv keeps the layer's own parameters."""
    plain = nn.Conv2d(16, 8, 3).eval()
    layer = AddedConv2d.from_conv(plain)
    weight = layer.offset_conv.weight
    bound = 1 / math.sqrt(16 * 9)
    assert 0.95 * bound < weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
    assert not layer.offset_conv.bias.any()
    assert (layer.weight is plain.weight, layer.bias is plain.bias, layer.training) == (True, True, False)


def test_resetting_every_module_leaves_a_layer_that_learns():
    """A loop that calls reset_parameters must not leave zeros in the branch."""
    layer = trained(AddedConv2d(4, 6, 3))
    for module in layer.modules():
        module.reset_parameters()
    assert layer.offset_conv.weight.any()
    assert not layer.added.any()


def test_added_layers_have_no_offsets_to_measure():
    """The guard against runaway offsets skips them: their maps are no pixels."""
    assert not learns_offsets(AddedConv2d(4, 6, 3))


def test_add_maps_changes_only_the_last_layers():
    """Output, parameter objects and the random generator stay; equal layers are drawn differently."""
    model = nn.Sequential(*(nn.Conv2d(4, 4, 3, padding=1) for _ in range(3)))
    image, weights = torch.randn(1, 4, 6, 6), model.state_dict(keep_vars=True)
    before, state = model(image), torch.get_rng_state()
    assert add_maps(model, 2) is model
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(model(image), before)
    after = model.state_dict(keep_vars=True)
    assert all(after[name] is tensor for name, tensor in weights.items())
    assert [isinstance(layer, AddedConv2d) for layer in model] == [False, True, True]
    assert conv_layers(model) == ["0", "1", "2"]
    assert not torch.equal(model[1].offset_conv.weight, model[2].offset_conv.weight)
    dilate(model, 1, 2)
    assert [model[2].offset_conv.dilation, model[2](image).shape] == [(2, 2), before.shape]
    with pytest.raises(TypeError, match="layers: 2 is of class AddedConv2d"):
        deform(model, 1)


def test_autocast_gives_the_dtype_of_a_convolution():
    """Under bfloat16 the maps are float32, as a deformable layer's offsets, and the output is bfloat16."""
    layer = trained(AddedConv2d(4, 6, 3))
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(1, 4, 6, 6)).dtype == torch.bfloat16
