"""DeformConv2d: a plain convolution until its offsets learn."""

import pytest
import torch
import torchvision
from torch import nn

from dcnlab.nn import DeformConv2d


@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize("mode", ["zeros", "reflect", "circular", "replicate"])
@pytest.mark.parametrize("padding", [1, (2, 0), "same", "valid"], ids=str)
def test_a_new_deformable_layer_equals_the_plain_conv(modulated, mode, padding):
    """Zero offsets and masks of one give nn.Conv2d's output for every padding and padding mode."""
    options = {"padding": padding, "dilation": 2, "groups": 2, "padding_mode": mode, "dtype": torch.float64}
    plain = nn.Conv2d(4, 6, (3, 2), **options)
    layer = DeformConv2d(4, 6, (3, 2), **options, offset_groups=2, modulated=modulated)
    layer.load_state_dict(plain.state_dict(), strict=False)
    input = torch.randn(2, 4, 9, 10, dtype=torch.float64)
    torch.testing.assert_close(layer(input), plain(input))


def test_a_plain_state_dict_lacks_only_the_offset_branch():
    """Loading nn.Conv2d's weights misses the offset convolution alone."""
    missing = DeformConv2d(4, 6, 3).load_state_dict(nn.Conv2d(4, 6, 3).state_dict(), strict=False)
    assert missing.missing_keys == ["offset_conv.weight", "offset_conv.bias"]
    assert not missing.unexpected_keys


@pytest.mark.parametrize("modulated", [False, True])
def test_a_trained_layer_equals_torchvision_at_its_offsets(modulated):
    """torchvision's deform_conv2d with the predicted offsets, and masks of twice the sigmoid."""
    layer = DeformConv2d(4, 6, 3, stride=2, padding=1, offset_groups=2, modulated=modulated, dtype=torch.float64)
    nn.init.normal_(layer.offset_conv.weight, std=0.3)
    input = torch.randn(2, 4, 9, 10, dtype=torch.float64)
    predicted = nn.functional.conv2d(input, layer.offset_conv.weight, layer.offset_conv.bias, 2, 1)
    mask = 2 / (1 + (-predicted[:, 36:]).exp()) if modulated else None
    expected = torchvision.ops.deform_conv2d(input, predicted[:, :36], layer.weight, layer.bias, 2, 1, mask=mask)
    torch.testing.assert_close(layer(input), expected)


def test_offset_branch_learns_from_the_first_step():
    """The convolution's weights are random, so zero offsets already have a gradient."""
    layer = DeformConv2d(3, 4, 3, padding=1)
    layer(torch.randn(2, 3, 8, 8)).square().sum().backward()
    assert layer.offset_conv.weight.grad.abs().sum() > 0
    assert layer.offset_conv.bias.grad.abs().sum() > 0


def test_offset_groups_that_do_not_divide_the_channels_are_named():
    with pytest.raises(ValueError, match="offset_groups: 3 does not divide the 4 input channels"):
        DeformConv2d(4, 6, 3, offset_groups=3)


def test_deform_conv_repr_shows_its_own_options():
    """offset_groups and modulated stand in the repr."""
    assert "offset_groups=2, modulated=True" in repr(DeformConv2d(4, 6, 3, offset_groups=2, modulated=True))
