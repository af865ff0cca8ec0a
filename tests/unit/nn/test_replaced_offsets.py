"""ReplacedOffsets: zero, constant or another image's offsets, against torchvision's deform_conv2d."""

import pytest
import torch
import torchvision
from torch import nn

from dcnlab.nn import DeformConv2d
from dcnlab.nn.replaced_offsets import ReplacedOffsets


def layer(modulated=False, **options):
    """A deformable layer with numbers everywhere."""
    made = DeformConv2d(4, 6, 3, padding=1, offset_groups=2, modulated=modulated, dtype=torch.float64, **options)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    return made.eval().requires_grad_(False)


def by_torchvision(made, input, source):
    """The layer's output at the offsets, and with the factors, that its branch predicts from another input."""
    predicted = nn.functional.conv2d(source, made.offset_conv.weight, made.offset_conv.bias, made.stride, 1)
    offset, mask = predicted[:, :36], 2 * predicted[:, 36:].sigmoid() if made.modulated else None
    size = [(side - 1) // made.stride[0] + 1 for side in input.shape[2:]]
    offset, mask = (
        None if values is None else nn.functional.interpolate(values, size, mode="bilinear", align_corners=False)
        for values in (offset, mask)
    )
    return torchvision.ops.deform_conv2d(input, offset, made.weight, made.bias, made.stride, 1, mask=mask)


def replay(replaced, network, donors):
    """Let a network use what it predicts from other images, one by one."""
    recorded = []
    for donor in donors:
        with replaced.recording() as calls:
            network(donor)
        recorded.append(calls)
    replaced.by_other_images(recorded)


@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_zero_offsets_give_the_plain_convolution(modulated, stride):
    """Factors become one; restored, the layer predicts again."""
    made, input = layer(modulated, stride=stride), torch.randn(2, 4, 7, 8, dtype=torch.float64)
    before, replaced = made(input), ReplacedOffsets(nn.Sequential(made))
    replaced.by_zero()
    plain = nn.functional.conv2d(input, made.weight, made.bias, stride, 1)
    torch.testing.assert_close(made(input), plain)
    assert not torch.allclose(before, plain)
    replaced.restore()
    assert torch.equal(made(input), before)


@pytest.mark.parametrize("modulated", [False, True])
def test_the_mean_is_over_images_and_locations(modulated):
    """Two images of different size: the mean of all predictions, then torchvision's output at that constant."""
    made = layer(modulated)
    inputs = [torch.randn(1, 4, height, 8, dtype=torch.float64) for height in (5, 9)]
    replaced = ReplacedOffsets(made)
    with replaced.summing() as sums:
        for input in inputs:
            made(input)
    offset, mask = zip(*(made.offsets(input) for input in inputs), strict=True)
    by_hand = [
        torch.cat([part.flatten(2) for part in parts], 2).mean((0, 2))
        for parts in (offset, mask)
        if parts[0] is not None
    ]
    mean = sums[0][:-1] / sums[0][-1]
    assert sums[0][-1] == 5 * 8 + 9 * 8
    torch.testing.assert_close(mean, torch.cat(by_hand))
    replaced.by_constants([mean])
    maps = [part.view(1, -1, 1, 1).repeat(1, 1, 5, 8) for part in by_hand]
    expected = torchvision.ops.deform_conv2d(
        inputs[0], maps[0], made.weight, made.bias, 1, 1, mask=maps[1] if modulated else None
    )
    torch.testing.assert_close(made(inputs[0]), expected)


def test_a_branch_with_only_a_bias_predicts_its_mean():
    """Mean and predicted offsets are the bias, so both give the same output; zero gives another."""
    made, input = layer(), torch.randn(2, 4, 7, 8, dtype=torch.float64)
    nn.init.zeros_(made.offset_conv.weight)
    before, replaced = made(input), ReplacedOffsets(made)
    with replaced.summing() as sums:
        made(input)
    torch.testing.assert_close(sums[0][:-1] / sums[0][-1], made.offset_conv.bias)
    replaced.by_constants([sums[0][:-1] / sums[0][-1]])
    torch.testing.assert_close(made(input), before)
    replaced.by_zero()
    assert not torch.allclose(made(input), before)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("modulated", [False, True])
def test_two_images_swap_their_offsets(modulated, stride):
    """A batch of two: each image is convolved at what the other one predicts."""
    made, images = layer(modulated, stride=stride), torch.randn(2, 4, 7, 8, dtype=torch.float64)
    replay(ReplacedOffsets(made), made, [images[1:], images[:1]])
    torch.testing.assert_close(made(images), by_torchvision(made, images, images.flip(0)))


def test_other_sizes_are_resized_and_images_come_in_order():
    """A donor of half the size; the batch may be taken image by image, as detectors do."""
    made = layer()
    images = [torch.randn(1, 4, 8, 10, dtype=torch.float64), torch.randn(1, 4, 5, 5, dtype=torch.float64)]
    replay(ReplacedOffsets(made), made, images[::-1])
    for image, donor in zip(images, images[::-1], strict=True):
        torch.testing.assert_close(made(image), by_torchvision(made, image, donor))


@pytest.mark.parametrize("together", [True, False])
def test_a_layer_used_twice_replays_each_use(together):
    """The second use gets what the donor's second use predicted, for batches and for single images."""

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = DeformConv2d(4, 4, 3, padding=1, dtype=torch.float64)
            nn.init.normal_(self.layer.offset_conv.weight, std=0.3)

        def forward(self, input):
            return self.layer(self.layer(input))

    network, images = Twice().requires_grad_(False), torch.randn(2, 4, 6, 6, dtype=torch.float64)
    made = network.layer
    first, second = images.flip(0), made(images.flip(0))
    middle = torchvision.ops.deform_conv2d(images, made.offset_conv(first), made.weight, made.bias, padding=1)
    expected = torchvision.ops.deform_conv2d(middle, made.offset_conv(second), made.weight, made.bias, padding=1)
    replay(ReplacedOffsets(network), network, [images[1:], images[:1]])
    output = network(images) if together else torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(output, expected)
