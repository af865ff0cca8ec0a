"""ActiveConv2d: a plain convolution until its taps move, then one with other taps everywhere."""

import pytest
import torch
import torchvision
from torch import nn
from torch.autograd import gradcheck
from torch.func import functional_call

from dcnlab.nn import ActiveConv2d, DeformConv2d


def moved(layer, seed=0):
    """The layer with its taps up to 1.5 pixels away, none near a whole pixel, where the gradient jumps."""
    generator = torch.Generator().manual_seed(seed)
    size = layer.offset.shape
    with torch.no_grad():
        layer.offset.copy_(torch.randint(-2, 2, size, generator=generator) + 0.1)
        layer.offset += 0.8 * torch.rand(size, generator=generator, dtype=layer.offset.dtype)
    return layer


def spread(layer, reach):
    """The plain kernel that an active layer stands for: each weight shared out to the four taps around its place."""
    filters, per_group, height, width = layer.weight.shape
    (down, right), taps = layer.dilation, height * width
    kernel = layer.weight.new_zeros(
        filters, per_group, down * (height - 1) + 1 + 2 * reach, right * (width - 1) + 1 + 2 * reach
    )
    offset = layer.offset.detach().view(layer.offset_groups, taps, 2)
    for out in range(filters):
        for channel in range(per_group):
            source = out // (filters // layer.groups) * per_group + channel
            for tap in range(taps):
                y, x = offset[source * layer.offset_groups // layer.in_channels, tap]
                y, x = y + tap // width * down + reach, x + tap % width * right + reach
                top, left = int(y.floor()), int(x.floor())
                for row, share_y in ((top, 1 - (y - top)), (top + 1, y - top)):
                    for column, share_x in ((left, 1 - (x - left)), (left + 1, x - left)):
                        weight = layer.weight[out, channel, tap // width, tap % width]
                        kernel[out, channel, row, column] += share_y * share_x * weight
    return kernel


@pytest.mark.parametrize("mode", ["zeros", "reflect", "circular", "replicate"])
@pytest.mark.parametrize("padding", [1, (2, 0), "same", "valid"], ids=str)
def test_a_new_active_layer_equals_the_plain_convolution(mode, padding):
    """Zero offsets give nn.Conv2d's output for every padding and padding mode."""
    options = {"padding": padding, "dilation": 2, "groups": 2, "padding_mode": mode, "dtype": torch.float64}
    plain = nn.Conv2d(4, 6, (3, 2), **options)
    layer = ActiveConv2d(4, 6, (3, 2), **options, offset_groups=2)
    layer.load_state_dict(plain.state_dict(), strict=False)
    input = torch.randn(2, 4, 9, 10, dtype=torch.float64)
    torch.testing.assert_close(layer(input), plain(input))


@pytest.mark.parametrize("stride", [1, 2, (1, 3)], ids=str)
def test_strides_give_the_plain_convolutions_output(stride):
    """from_conv keeps the stride, also an unequal one."""
    plain = nn.Conv2d(3, 2, 3, stride=stride, padding=1)
    input = torch.randn(2, 3, 8, 11)
    torch.testing.assert_close(ActiveConv2d.from_conv(plain)(input), plain(input), rtol=1e-5, atol=1e-5)


def test_moved_taps_give_a_hand_worked_output():
    """Half a pixel down and half a pixel left, with zeros beyond the border."""
    layer = ActiveConv2d(1, 1, (1, 2), bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[[[2.0, -1.0]]]]))
        layer.offset.copy_(torch.tensor([0.5, 0.0, 0.0, -0.5]))  # the first half a pixel down, the second one left
    output = layer(torch.arange(1.0, 10).view(1, 1, 3, 3))
    # At (0, 0): twice the mean of 1 and 4, less the mean of 1 and 2. In the last row half of the first tap is outside.
    assert output.tolist() == [[[[3.5, 4.5], [6.5, 7.5], [-0.5, -0.5]]]]


@pytest.mark.parametrize("groups", [(1, 1), (2, 1), (1, 2), (2, 4)], ids=str)
def test_active_conv_is_a_conv_with_a_larger_kernel(groups):
    """Each weight is distributed bilinearly over four taps of an enlarged kernel."""
    layer = ActiveConv2d(
        4, 6, (3, 2), stride=(2, 1), padding=(2, 1), dilation=(1, 2), groups=groups[0], dtype=torch.float64,
        offset_groups=groups[1],
    )  # fmt: skip
    moved(layer)
    input = torch.randn(2, 4, 7, 8, dtype=torch.float64)
    kernel = spread(layer, 2)
    expected = nn.functional.conv2d(input, kernel, layer.bias, (2, 1), (4, 3), groups=groups[0])
    torch.testing.assert_close(layer(input), expected)


def test_active_conv_equals_torchvision_at_constant_offsets():
    """torchvision's deform_conv2d with the same offsets at every location gives the output."""
    layer = moved(ActiveConv2d(4, 6, 3, stride=2, padding=1, offset_groups=2, dtype=torch.float64))
    input = torch.randn(2, 4, 9, 10, dtype=torch.float64)
    offset = layer.offset[None, :, None, None].repeat(2, 1, 5, 5)
    expected = torchvision.ops.deform_conv2d(input, offset, layer.weight, layer.bias, 2, 1)
    torch.testing.assert_close(layer(input), expected)


def test_active_offsets_equal_a_constant_offset_branch():
    """They act as the bias of a deformable layer whose offset convolution has zero weights."""
    layer = moved(ActiveConv2d(4, 6, 3, padding=1, padding_mode="reflect", offset_groups=2, dtype=torch.float64))
    deformable = DeformConv2d.from_conv(layer, offset_groups=2)
    deformable.offset_conv.bias = layer.offset
    input = torch.randn(2, 4, 6, 7, dtype=torch.float64)
    torch.testing.assert_close(layer(input), deformable(input))
    torch.testing.assert_close(layer.offsets(input)[0], deformable.offsets(input)[0])


@pytest.mark.parametrize("mode", ["zeros", "circular"])
def test_gradients_equal_finite_differences(mode):
    layer = moved(ActiveConv2d(2, 2, 2, stride=2, padding=1, padding_mode=mode, offset_groups=2, dtype=torch.float64))
    names, parameters = zip(*layer.named_parameters(), strict=True)
    assert set(names) == {"weight", "bias", "offset"}
    input = torch.randn(2, 2, 4, 3, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x, *p: functional_call(layer, dict(zip(names, p, strict=True)), (x,)), (input, *parameters))


def test_a_tap_learns_the_shift_of_its_input():
    """Gradient descent on the offset finds the shift of (0.7, -0.3)."""
    y, x = torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij")
    image, target = (torch.sin(0.5 * (y + dy)) + torch.cos(0.4 * (x + dx)) for dy, dx in ((0, 0), (0.7, -0.3)))
    layer = ActiveConv2d(1, 1, 1, bias=False)
    nn.init.ones_(layer.weight)
    optimizer = torch.optim.Adam([layer.offset], lr=0.05)
    for _ in range(80):
        optimizer.zero_grad()
        (layer(image[None, None]) - target)[..., 1:-1, 1:-1].square().mean().backward()
        optimizer.step()
    torch.testing.assert_close(layer.offset.detach(), torch.tensor([0.7, -0.3]), rtol=0, atol=0.05)


def test_a_plain_state_dict_lacks_only_the_offset():
    """Loading nn.Conv2d's weights misses "offset" alone, and no key is left over."""
    missing = ActiveConv2d(4, 6, 3).load_state_dict(nn.Conv2d(4, 6, 3).state_dict(), strict=False)
    assert missing.missing_keys == ["offset"]
    assert not missing.unexpected_keys


def test_from_conv_shares_parameters_and_training_mode():
    """The weight is the same object; dtype, missing bias and evaluation mode are kept."""
    plain = nn.Conv2d(4, 6, 3, bias=False, dtype=torch.float64).eval()
    layer = ActiveConv2d.from_conv(plain, offset_groups=2)
    assert layer.weight is plain.weight
    assert layer.bias is None
    assert not layer.training
    assert (layer.offset.shape, layer.offset.dtype) == ((2 * 2 * 9,), torch.float64)


def test_autocast_does_not_round_offsets():
    """9.03 would become 9.0 in bfloat16."""
    layer = ActiveConv2d(1, 1, 1, bias=False)
    nn.init.ones_(layer.weight)
    with torch.no_grad():
        layer.offset.copy_(torch.tensor([0.0, 9.03]))  # 9.0 in bfloat16
    bright = torch.zeros(1, 1, 1, 16)
    bright[..., 10] = 100
    with torch.autocast("cpu", torch.bfloat16):
        output = layer(bright)
    assert output.dtype == torch.bfloat16
    assert output[0, 0, 0, 0].item() == pytest.approx(100 * 0.03, rel=2**-8)


def test_offset_groups_that_do_not_divide_the_channels_are_named():
    with pytest.raises(ValueError, match="offset_groups: 3 does not divide the 4 input channels"):
        ActiveConv2d(4, 6, 3, offset_groups=3)


def test_active_conv_repr_shows_offset_groups():
    """The rest of its repr is that of a convolution."""
    assert repr(ActiveConv2d(4, 6, 3, offset_groups=2)).startswith("ActiveConv2d(4, 6, kernel_size=(3, 3)")
    assert "offset_groups=2" in repr(ActiveConv2d(4, 6, 3, offset_groups=2))
