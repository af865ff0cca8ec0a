"""Sampling points through stacks of deformable layers, against what autograd says one unit's output depends on."""

import math
from collections import OrderedDict

import pytest
import torch
from torch import nn

from dcnlab.ablations.analysis.grid import Grid
from dcnlab.ablations.analysis.tracing import nearest_unit, observe, stack, trace
from dcnlab.models.backbone import backbone
from dcnlab.models.resnet import classifier
from dcnlab.nn import DeformConv2d
from dcnlab.surgery import deform


class FixedOffsets(DeformConv2d):
    """Offsets that do not depend on the input, so that a gradient with respect to it is that of the samples alone."""

    def fix(self, offset):
        self.fixed = offset
        return self

    def offsets(self, input):
        return self.fixed.to(input.dtype), None


class Residual(nn.Module):
    """A branch and a shortcut that is there and passes nothing."""

    def __init__(self, branch, shortcut):
        super().__init__()
        self.branch, self.shortcut = branch, shortcut
        nn.init.zeros_(shortcut.weight)

    def forward(self, x):
        out = self.branch(x)
        out += self.shortcut(x)
        return out.relu_()


def positive(network):
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.weight.any():
            nn.init.constant_(module.weight, 1.0)
    return network.double().eval()


def support(network, size, unit):
    """Pixels (y, x) on which a unit of the output depends."""
    image = torch.ones(1, 1, *size, dtype=torch.float64, requires_grad=True)
    network(image)[0, :, unit[0], unit[1]].sum().backward()
    return {tuple(place) for place in image.grad[0, 0].nonzero().tolist()}


def corners(points, size):
    """The pixels that are read bilinearly at these points."""
    found = set()
    for y, x in points.tolist():
        rows = {math.floor(y), math.ceil(y)}
        found |= {(row, column) for row in rows for column in (math.floor(x), math.ceil(x))}
    return {(y, x) for y, x in found if 0 <= y < size[0] and 0 <= x < size[1]}


@pytest.mark.parametrize(("stride", "padding", "dilation", "kernel"), [(1, 1, 1, 3), (2, 2, 2, 3), (1, 0, 3, (1, 3))])
def test_one_layer_reads_the_pixels_around_its_points(stride, padding, dilation, kernel):
    """The traced pixels are those with a nonzero gradient, for strides, padding and groups."""
    torch.manual_seed(0)
    size, (kh, kw) = (15, 18), (3, 3) if kernel == 3 else kernel
    height, width = (
        (side + 2 * padding - dilation * (k - 1) - 1) // stride + 1 for side, k in zip(size, (kh, kw), strict=True)
    )
    for groups in (1, 2):
        layer = FixedOffsets(2, 1, kernel, stride, padding, dilation, bias=False, offset_groups=groups)
        layer.fix(3 * torch.randn(1, 2 * groups * kh * kw, height, width))
        network = positive(nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), layer))
        (seen,) = observe(network, torch.ones(1, 1, *size, dtype=torch.float64))
        for unit in ((0, 0), (height // 2, width // 2), (height - 1, width - 1)):
            (points,) = trace([seen], unit)
            assert corners(points, size) == support(network, size, unit)


def stacked(offsets):
    """Four deformable layers at two strides, with all that may lie between; `offsets` makes a layer's."""

    def layer(height, width, channels=1, stride=1, padding=1, dilation=1, groups=1):
        made = FixedOffsets(
            channels, channels, 3, stride, padding, dilation, groups=channels, bias=False, offset_groups=groups
        )
        return made.fix(offsets(18 * groups, -(-height // stride), -(-width // stride)))

    return positive(
        nn.Sequential(
            OrderedDict(
                stem=nn.Conv2d(1, 2, 1, stride=2, bias=False),
                norm=nn.BatchNorm2d(2),
                first=layer(24, 28, channels=2, groups=2),
                block=Residual(
                    nn.Sequential(
                        nn.Conv2d(2, 1, 1, bias=False),
                        nn.BatchNorm2d(1),
                        nn.ReLU(inplace=True),
                        layer(24, 28, stride=2, padding=2, dilation=2),
                        nn.Conv2d(1, 2, 1, bias=False),
                    ),
                    nn.Conv2d(2, 2, 1, stride=2, bias=False),
                ),
                narrow=nn.Conv2d(2, 1, 1, bias=False),
                third=layer(12, 14),
                fourth=layer(12, 14, padding=3, dilation=3),
            )
        )
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_whole_offsets_trace_the_pixels_with_gradient(seed):
    """Through four layers the traced sampling locations are the pixels with nonzero gradient."""
    torch.manual_seed(seed)
    size = (48, 56)
    network = stacked(lambda *shape: torch.randint(-2, 3, (1, *shape)).float())
    layers = observe(network, torch.ones(1, 1, *size, dtype=torch.float64))
    assert [layer.name for layer in layers] == ["first", "block.branch.3", "third", "fourth"]
    chain = stack(layers)
    assert [layer.name for layer in chain] == ["fourth", "third", "block.branch.3", "first"]
    for unit in ((0, 0), (5, 7), (11, 13)):
        points = trace(chain, unit)[-1]
        assert set(map(tuple, points.tolist())) == support(network, size, unit)


def test_fractional_points_trace_all_units_around_them():
    """At a fractional location all neighbouring units are followed; the pixels equal the gradient's."""
    torch.manual_seed(2)
    size = (48, 56)
    network = stacked(lambda *shape: 2 * torch.randn(1, *shape))
    chain = stack(observe(network, torch.ones(1, 1, *size, dtype=torch.float64)))
    for unit in ((0, 0), (5, 7), (11, 13)):
        units = {unit}
        for layer, below in zip(chain, [*chain[1:], None], strict=True):
            read = corners(layer.sampling_points(torch.tensor(sorted(units))).flatten(0, 1), layer.input_size)
            pixels = layer.input.to_image(torch.tensor(sorted(read), dtype=torch.float64))
            landed = pixels if below is None else below.output.from_image(pixels)
            units = set(map(tuple, landed.long().tolist()))
        assert units == support(network, size, unit)


def test_a_fractional_point_uses_the_nearest_units_offsets():
    """Between two units the nearest one's offsets count; a location beyond the map is not followed."""
    below = FixedOffsets(1, 1, 1, bias=False).fix(torch.zeros(1, 2, 1, 8))
    below.fixed[0, 1] = torch.arange(8.0) / 16  # unit i looks i / 16 to its right
    above = FixedOffsets(1, 1, (1, 3), padding=(0, 1), bias=False).fix(torch.zeros(1, 6, 1, 8))
    above.fixed[0, 1], above.fixed[0, 3], above.fixed[0, 5] = -4.75, 0.4, 3.5  # from unit 4: -1.75, 4.4, 8.5
    chain = stack(observe(nn.Sequential(below, above).eval(), torch.ones(1, 1, 1, 8)))
    first, second = trace(chain, (0, 4))
    assert first[:, 1].tolist() == pytest.approx([4.4])
    assert second[:, 1].tolist() == pytest.approx([4.4 + 4 / 16])


def test_three_layers_have_729_points_within_the_map():
    """9, 81 and 729: each 3x3 layer multiplies the sampling locations by nine."""
    layers = [FixedOffsets(1, 1, 3, padding=1).fix(0.1 * torch.randn(1, 18, 40, 40)) for _ in range(3)]
    chain = stack(observe(nn.Sequential(*layers).eval(), torch.ones(1, 1, 40, 40)))
    assert [len(points) for points in trace(chain, (20, 20))] == [9, 81, 729]
    assert [len(points) for points in trace(stack(chain[::-1], 2), (20, 20))] == [9, 81]


def centre(network, size, unit):
    """Middle of the pixels on which a unit depends."""
    places = torch.tensor(sorted(support(network, size, unit)), dtype=torch.float64)
    return ((places.amin(0) + places.amax(0)) / 2).tolist()


class Windows(nn.Module):
    """Operators that shift a map or change its step, in ways that no residual network does."""

    def forward(self, x):
        x = nn.functional.avg_pool2d(nn.functional.pad(x, (3, 1, 2, 2), mode="reflect"), 2)
        x = nn.functional.conv_transpose2d(x, x.new_ones(1, 1, 4, 4), stride=2, padding=1)
        return nn.functional.interpolate(x[:, :, 1:, 2::2], scale_factor=3, mode="nearest")


@pytest.mark.parametrize(
    ("front", "unit"),
    [
        (nn.Sequential(nn.Conv2d(1, 1, 7, 2, 3), nn.MaxPool2d(3, 2, 1), nn.Conv2d(1, 1, 3, 2, 1)), (4, 5)),
        (nn.Sequential(nn.Conv2d(1, 1, 4, 2, 1), nn.AvgPool2d(2), nn.Conv2d(1, 1, 3, 1, 2, 2)), (7, 8)),
        (nn.Sequential(nn.Conv2d(1, 1, 3, 3), nn.MaxPool2d((2, 3), (1, 2))), (9, 5)),
        (nn.Conv2d(1, 1, 4, padding="same"), (30, 30)),
    ],
)
def test_units_are_centred_where_gradients_say(front, unit):
    """The centre of gravity of the input gradient, through pooling and strides."""
    network = positive(nn.Sequential(front, FixedOffsets(1, 1, 1, bias=False).fix(torch.zeros(1, 2, 64, 64))))
    for pool in (module for module in network.modules() if isinstance(module, nn.MaxPool2d)):
        front[list(front).index(pool)] = nn.AvgPool2d(pool.kernel_size, pool.stride, pool.padding)
    size = (80, 90)
    with torch.no_grad():
        height, width = network[0](torch.ones(1, 1, *size, dtype=torch.float64)).shape[-2:]
    network[1].fix(torch.zeros(1, 2, height, width))
    (layer,) = observe(network, torch.ones(1, 1, *size, dtype=torch.float64))
    pixel = layer.output.to_image(torch.tensor(unit, dtype=torch.float64)).tolist()
    assert pixel == pytest.approx(centre(network, size, unit))
    assert nearest_unit(layer, pixel) == unit


def test_max_pooling_shifts_a_grid_like_average_pooling():
    """Scale and origin of the map are the same for both, by hand for three poolings."""

    def grid(pool):
        network = nn.Sequential(pool, DeformConv2d(1, 1, 1)).eval()
        (layer,) = observe(network, torch.ones(1, 1, 16, 17))
        return layer.output

    assert grid(nn.MaxPool2d(3, 2, 1)) == grid(nn.AvgPool2d(3, 2, 1)) == Grid((2.0, 2.0), (0.0, 0.0))
    assert grid(nn.MaxPool2d(2)) == Grid((2.0, 2.0), (0.5, 0.5))
    assert grid(nn.MaxPool2d(2, 1, dilation=3)) == Grid((1.0, 1.0), (1.5, 1.5))


def test_padding_slicing_and_upsampling_are_followed():
    """By hand: the grid's scale and origin after each step."""
    network = nn.Sequential(Windows(), DeformConv2d(1, 1, 1)).eval()
    (layer,) = observe(network, torch.ones(1, 1, 20, 24))
    # Columns: padding -3, pairs' means from -2.5 by 2, doubled back from -3 by 1, every second from -1 by 2, tripled.
    # Rows: -2, from -1.5 by 2, from -2 by 1, without the first from -1 by 1, tripled.
    assert layer.output.scale == pytest.approx((1 / 3, 2 / 3))
    assert layer.output.shift == pytest.approx((-1 - 1 / 3, -1 - 2 / 3))


@pytest.mark.parametrize(("name", "layers"), [("resnet10_slim", 3), ("resnet18", 6), ("resnet50", 3)])
def test_the_backbones_units_are_at_multiples_of_their_stride(name, layers):
    """Padding and pooling of ResNets keep every unit on a multiple of its stride."""
    network = backbone(name, deform_layers=layers).eval()
    found = observe(network, torch.zeros(1, 3, 64, 96))
    assert [layer.below for layer in found] == [tuple(range(at)) for at in range(layers)]
    for layer in found:
        stride = network.strides["res4" if layer.name.startswith("layer3") else "res5"]
        assert layer.output == Grid((stride, stride), (0.0, 0.0))
        assert layer.offset.shape[-2:] == (64 // stride, 96 // stride)
    assert found[-1].name == ("layer4.2.conv2" if name == "resnet50" else found[-1].name)


def test_the_deeper_of_two_branches_is_followed():
    """Of parallel branches the one with more deformable layers is traced."""

    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.short = DeformConv2d(1, 1, 3, padding=1)
            self.long = nn.Sequential(DeformConv2d(1, 1, 3, padding=1), DeformConv2d(1, 1, 3, padding=1))
            self.last = DeformConv2d(2, 1, 3, padding=1)

        def forward(self, x):
            return self.last(torch.cat([self.short(x), self.long(x)], 1))

    chain = stack(observe(Branches().eval(), torch.ones(1, 1, 9, 9)))
    assert [layer.name for layer in chain] == ["last", "long.1", "long.0"]


def test_timm_networks_are_traced_after_surgery():
    """A resnet26d pools the average in its shortcuts."""
    timm = pytest.importorskip("timm")
    network = deform(timm.create_model("resnet26d"), 3).eval()  # pools the average in its shortcuts
    found = observe(network, torch.zeros(1, 3, 64, 64))
    assert [layer.below for layer in found] == [(), (0,), (0, 1)]
    assert found[-1].output == Grid((32.0, 32.0), (0.0, 0.0))


def test_a_spatial_transformer_cannot_be_traced():
    """The units' positions in the image are then unknown, so the layer is named in an error."""
    network = classifier("resnet10_slim", 10, deform_layers=1, spatial_transformer=True).eval()
    with pytest.raises(ValueError, match=r"layer4\.0\.conv2 is deformable, but positions of its input"):
        observe(network, torch.zeros(1, 3, 56, 56))


def test_a_network_without_deformable_layers_gives_no_layer():
    """observe, stack and trace return empty lists instead of failing."""
    assert observe(nn.Conv2d(1, 1, 3).eval(), torch.zeros(1, 1, 8, 8)) == []
    assert stack([]) == trace([], (0, 0)) == []
