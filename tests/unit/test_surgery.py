"""Surgery on other people's networks."""

import copy
import logging
import random
import warnings

import numpy as np
import pytest
import timm
import torch
import torchvision
from command_line import python
from timm.layers import Conv2dSame
from timm.layers.padding import pad_same
from torch import nn
from torch.nn import functional

from dcnlab.nn import ActiveConv2d, DeformConv2d
from dcnlab.nn.offset_statistics import OffsetStatistics
from dcnlab.surgery import (
    LayerNotFoundError,
    activate,
    conv_layers,
    deform,
    dilate,
    dilate_offsets,
    transform_input,
)

ZOO = ["resnet26", "densenet121", "mobilenetv2_100", "efficientnet_b0", "hrnet_w18_small", "vgg11_bn", "regnety_004"]
SURGERIES = [
    pytest.param(lambda model, layers: model, id="plain"),
    pytest.param(deform, id="deformable"),
    pytest.param(activate, id="active"),
]


class HeadFirst(nn.Module):
    """Registered in the opposite order of its use, with a layer that evaluation does not reach, and one used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(8, 4, 3, padding=1)
        self.auxiliary = nn.Conv2d(8, 4, 3, padding=1)
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1))
        self.again = self.body[0]
        self.stem = nn.Conv2d(1, 8, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features = self.again(self.body(self.stem(image)))
        return self.head(features) + (self.auxiliary(features) if self.training else 0)


def test_deform_changes_only_the_last_three_layers():
    """ResNet-18 keeps its output and its parameter objects; only offset convolutions are new."""
    model = torchvision.models.resnet18().eval()
    image = torch.randn(2, 3, 65, 81)
    before, weights = model(image), model.state_dict(keep_vars=True)
    assert deform(model, 3) is model
    names = [name for name, module in model.named_modules() if isinstance(module, DeformConv2d)]
    assert names == ["layer4.0.conv2", "layer4.1.conv1", "layer4.1.conv2"]
    torch.testing.assert_close(model(image), before, rtol=1e-5, atol=1e-5)
    after = model.state_dict(keep_vars=True)
    assert all(after[name] is tensor for name, tensor in weights.items())
    assert set(after) - set(weights) == {f"{name}.offset_conv.{part}" for name in names for part in ("weight", "bias")}


@pytest.mark.parametrize("surgery", [deform, activate])
def test_surgery_keeps_outputs_to_the_bit_where_sums_are_exact(surgery):
    """With whole numbers no sum is rounded: sampling without offsets gives the input's own values, not nearly those."""
    model = nn.Sequential(nn.Conv2d(16, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 8, 3, stride=2, dilation=2))
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data.random_(-8, 9, generator=generator)
    image = torch.empty(2, 16, 15, 12).random_(-8, 9, generator=generator)
    before = model(image)
    assert before.abs().max() < 2**24  # up to which float32 has every whole number
    assert torch.equal(surgery(model, 2)(image), before)


@pytest.mark.filterwarnings("ignore:deform")
@pytest.mark.parametrize("name", ZOO)
def test_timm_networks_keep_their_output_after_surgery(name):
    """Two modulated layers at their start compute what the plain ones did."""
    model = timm.create_model(name).eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = model(image)
        deform(model, 2, modulated=True)
        assert sum(isinstance(module, DeformConv2d) for module in model.modules()) == 2
        torch.testing.assert_close(model(image), before, rtol=1e-4, atol=1e-4 * before.abs().max().item())


def test_layers_are_listed_in_the_order_of_their_use():
    """conv_layers runs the model; the order of registration may differ from that of use."""
    model = HeadFirst()
    assert conv_layers(model) == ["auxiliary", "stem", "body.0", "head"]
    assert conv_layers(model, kernel_size=1) == ["body.1"]
    assert model.training
    assert model.body.training


def test_offset_branches_are_not_listed_as_layers():
    """Or a second deform would deform the offset convolutions."""
    model = deform(HeadFirst(), "head")
    assert conv_layers(model) == ["auxiliary", "stem", "body.0", "head"]


def test_a_shared_layer_is_replaced_under_both_names():
    """Both attributes must still hold the same module."""
    model = deform(HeadFirst(), "body.0")
    assert isinstance(model.body[0], DeformConv2d)
    assert model.again is model.body[0]


def test_a_second_name_in_one_parent_is_replaced_too():
    """named_children lists a shared module once, so both names need care."""
    model = HeadFirst()
    model.twin = model.head
    deform(model, "head")
    assert model.twin is model.head
    assert isinstance(model.twin, DeformConv2d)


def test_deform_changes_nothing_when_one_layer_cannot():
    """A layer whose channels offset_groups does not divide leaves the others unchanged, too."""
    model = nn.Sequential(nn.Conv2d(4, 6, 3), nn.Conv2d(6, 4, 3))
    with pytest.raises(ValueError, match="offset_groups: 4 does not divide the 6"):
        deform(model, "*", offset_groups=4)
    assert type(model[0]) is nn.Conv2d


@pytest.mark.parametrize("before", SURGERIES)
def test_dilation_of_an_unpadded_layer_keeps_its_output_size(before):
    model = before(nn.Sequential(nn.Conv2d(2, 3, 3, padding="valid")), "0")
    assert dilate(model, "0", 2)(torch.randn(1, 2, 7, 7)).shape == (1, 3, 5, 5)


def test_a_rate_that_needs_negative_padding_is_refused():
    with pytest.raises(ValueError, match="would need a negative padding in 0"):
        dilate(nn.Sequential(nn.Conv2d(2, 3, 3, dilation=2)), "0", 1)


def test_conv_layers_falls_back_to_registration_order():
    """A model whose forward raises is listed as registered, with a warning that has its message."""

    class Picky(HeadFirst):
        def forward(self, image):
            raise RuntimeError("only on Sundays")

    with pytest.warns(UserWarning, match="only on Sundays.*order of their registration"):
        assert conv_layers(Picky()) == ["head", "auxiliary", "body.0", "stem"]


def test_finding_the_order_leaves_statistics_and_modes_alone():
    """Batch norms must not count the pass that finds the order."""
    model = torchvision.models.resnet18()
    model.layer1.eval()
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    conv_layers(model)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_layers_are_chosen_by_name_pattern_or_number():
    """Patterns choose only 3x3 layers; a full name may choose a 1x1 layer."""

    def deformed(layers):
        model = deform(torchvision.models.resnet18(), layers)
        return [name for name, module in model.named_modules() if isinstance(module, DeformConv2d)]

    assert deformed(0) == []
    assert deformed("layer4.*.conv2") == ["layer4.0.conv2", "layer4.1.conv2"]
    assert deformed("layer4.0.*") == ["layer4.0.conv1", "layer4.0.conv2"]  # not the 1x1 shortcut
    assert deformed("layer4.0.downsample.0") == ["layer4.0.downsample.0"]  # unless it is named
    assert deformed(["conv1", "layer1.0.*"]) == ["conv1", "layer1.0.conv1", "layer1.0.conv2"]


@pytest.mark.parametrize(
    "surgery", [deform, activate, lambda model, layers: dilate(model, layers, 2)], ids=["deform", "activate", "dilate"]
)
def test_an_unmatched_pattern_names_the_nearest_layers(surgery):
    """deform, activate and dilate raise LayerNotFoundError and change nothing."""
    model = torchvision.models.resnet18()
    with pytest.raises(
        LayerNotFoundError, match=r"'layer4\.1\.conv3' matches no convolution; nearest: layer4\.1\.conv2"
    ):
        surgery(model, ["conv1", "layer4.1.conv3"])
    assert not any(isinstance(module, DeformConv2d | ActiveConv2d) for module in model.modules())
    with pytest.raises(LayerNotFoundError, match="40 asked for, but the model has 16 3x3"):
        surgery(model, 40)


def test_subclassed_and_hooked_convolutions_are_refused():
    """A subclass, an already deformed layer and one with hooks would lose their behaviour."""

    class Standardised(nn.Conv2d):
        def forward(self, input):
            return self._conv_forward(input, self.weight - self.weight.mean((1, 2, 3), keepdim=True), self.bias)

    with pytest.raises(TypeError, match="layers: 0 is of class Standardised"):
        deform(nn.Sequential(Standardised(3, 4, 3)), "0")
    with pytest.raises(TypeError, match="layers: 0 is of class ActiveConv2d"):
        deform(activate(nn.Sequential(nn.Conv2d(3, 4, 3)), "0"), "0")
    with pytest.raises(TypeError, match="layers: 0 is of class DeformConv2d"):
        activate(deform(nn.Sequential(nn.Conv2d(3, 4, 3)), "0"), "0")
    parametrized = nn.Sequential(torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)))
    with pytest.raises(TypeError, match="layers: 0 is of class ParametrizedConv2d"):
        deform(parametrized, "0")
    hooked = nn.Sequential(nn.Conv2d(3, 4, 3))
    hooked[0].register_forward_hook(lambda *_: None)
    with pytest.raises(TypeError, match=r"layers: 0 is an nn\.Conv2d with hooks"):
        deform(hooked, "0")


@pytest.mark.parametrize("surgery", [deform, activate])
def test_repeated_surgery_changes_nothing(surgery):
    """A layer that is deformable already stays the same module."""
    model = surgery(torchvision.models.resnet18(), 2)
    layer = model.layer4[1].conv2
    surgery(model, 2)
    assert model.layer4[1].conv2 is layer


@pytest.mark.parametrize("before", SURGERIES)
@pytest.mark.parametrize("mode", ["zeros", "reflect"])
@pytest.mark.parametrize("padding", [1, "same"], ids=str)
def test_dilation_keeps_sizes_and_equals_a_layer_made_with_it(before, mode, padding):
    """Padding grows with the dilation; a layer built with both is the oracle."""
    model = nn.Sequential(nn.Conv2d(2, 3, 3, padding=padding, padding_mode=mode))
    expected = nn.Conv2d(2, 3, 3, padding=4 if padding == 1 else padding, dilation=4, padding_mode=mode)
    expected.load_state_dict(model[0].state_dict())
    before(model, "0")
    image = torch.randn(1, 2, 12, 13)
    torch.testing.assert_close(dilate(model, 1, 4)(image), expected(image), rtol=1e-5, atol=1e-5)


def test_dilation_of_a_strided_layer_keeps_its_output_size():
    model = dilate(nn.Sequential(nn.Conv2d(2, 3, 3, stride=2, padding=1)), "0", 2)
    assert model(torch.randn(1, 2, 11, 11)).shape == (1, 3, 6, 6)


@pytest.mark.parametrize("rate", [0, -1, 1.5])
def test_a_wrong_rate_is_named(rate):
    with pytest.raises(ValueError, match="rate: must be an int of at least 1"):
        dilate(HeadFirst(), 1, rate)


def test_dilate_refuses_even_kernels_before_any_change():
    """No padding keeps the output size of an even kernel, so no layer is dilated."""
    model = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 2))
    with pytest.raises(ValueError, match="would change the output size of 1"):
        dilate(model, "*", 2)
    assert model[0].dilation == (1, 1)


def test_a_deformed_network_trains_its_offsets():
    torch.manual_seed(0)
    model = deform(HeadFirst(), 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    image, target = torch.randn(2, 1, 12, 12), torch.randn(2, 4, 12, 12)
    losses = []
    for _ in range(60):
        loss = (model(image) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert model.head.offset_conv.weight.abs().max() > 0


def test_activate_changes_only_the_last_three_layers():
    """ResNet-18 keeps its output and its parameter objects; only the offsets are new."""
    model = torchvision.models.resnet18().eval()
    image = torch.randn(2, 3, 65, 81)
    before, weights = model(image), model.state_dict(keep_vars=True)
    assert activate(model, 3, offset_groups=2) is model
    names = [name for name, module in model.named_modules() if isinstance(module, ActiveConv2d)]
    assert names == ["layer4.0.conv2", "layer4.1.conv1", "layer4.1.conv2"]
    torch.testing.assert_close(model(image), before, rtol=1e-5, atol=1e-5)
    after = model.state_dict(keep_vars=True)
    assert all(after[name] is tensor for name, tensor in weights.items())
    assert {name: tuple(after[name].shape) for name in set(after) - set(weights)} == {
        f"{name}.offset": (2 * 2 * 9,) for name in names
    }
    assert conv_layers(model)[-3:] == names


def test_transform_input_keeps_the_output_and_layer_names():
    """The model becomes backbone.*, the new parameters transformer.*, and evaluation mode stays."""
    model = torchvision.models.resnet18(num_classes=5).eval()
    image, names = torch.randn(2, 3, 33, 41), list(model.state_dict())
    before = model(image)
    transformed = transform_input(model)
    assert torch.equal(transformed(image), before)
    assert transformed.backbone is model
    assert not transformed.training
    assert [name for name in transformed.state_dict() if not name.startswith("transformer.")] == [
        f"backbone.{name}" for name in names
    ]
    assert conv_layers(transformed)[-1] == "backbone.layer4.1.conv2"


def test_a_transformed_network_trains_its_localisation_net():
    torch.manual_seed(0)
    model = transform_input(nn.Conv2d(1, 1, 3, padding=1), in_channels=1)
    first = model.transformer.localisation[0].weight
    before = first.detach().clone()
    image = torch.randn(2, 1, 16, 16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):  # the last layer starts at zero: the others' gradients begin with the second step
        optimizer.zero_grad()
        (model(image) - image.roll(1, 3)).square().mean().backward()
        optimizer.step()
    assert (first - before).abs().max() > 0


class Sloppy(nn.Module):
    """Its forward pass, in any mode, draws, counts, caches, logs and warns; at 224 pixels it also fails."""

    def __init__(self, fails: bool) -> None:
        super().__init__()
        self.fails = fails
        self.stem, self.drop, self.head = nn.Conv2d(3, 8, 3), nn.Dropout(), nn.Conv2d(8, 8, 3)
        self.register_buffer("passes", torch.zeros((), dtype=torch.long))
        self.register_buffer("mean", torch.zeros(8))
        self.scale = nn.Parameter(torch.ones(()))
        self.calls, self.seen, self.cache = 0, [], None

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(random.randrange(9) + int(np.random.rand() < 2))  # noqa: NPY002
        self.scale.data.mul_(0.5)
        self.passes.add_(1)
        self.passes += 1
        self.calls += 1
        self.features = self.drop(self.stem(image)) + torch.randn(1)
        self.mean.mul_(0.9).add_(self.features.mean((0, 2, 3)))
        self.seen.append(image)
        self.cache = nn.functional.dropout(self.features, 0.5, True)
        warnings.warn("a word", stacklevel=1)
        logging.getLogger("torch._subclasses.fake_tensor").error("a word")
        features = self.head(self.cache)
        if self.fails:
            raise RuntimeError("not of this size")
        return features

    def train(self, mode: bool = True):
        raise RuntimeError("weights would be folded")


def draws():
    """What the three random generators would give next, without drawing."""
    return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002


@pytest.mark.parametrize("surgery", [deform, activate, lambda model, layers: dilate(model, layers, 2)])
@pytest.mark.parametrize("fails", [False, True])
def test_surgery_leaves_no_trace_of_its_forward_pass(capfd, recwarn, surgery, fails):
    """Modes, hooks, random state, buffers and output stay, even if the pass fails."""
    model, called = Sloppy(fails), []
    model.drop.eval = model.drop.train
    model.drop.register_forward_hook(lambda *_: called.append("hook"))
    model.stem.register_forward_pre_hook(lambda *_: called.append("hook"))
    model.drop.training = False
    state, before = copy.deepcopy(model.state_dict()), draws()
    surgery(model, 1)
    assert draws() == before
    assert capfd.readouterr() == ("", "")
    assert len(recwarn) == 0
    assert all(torch.equal(model.state_dict()[name], value) for name, value in state.items())
    assert type(model.mean) is type(model.passes) is torch.Tensor
    assert (model.calls, model.seen, model.cache, hasattr(model, "features"), called) == (0, [], None, False, [])
    assert (model.training, model.drop.training, model.stem.training) == (True, False, True)
    assert (len(model.drop._forward_hooks), len(model.stem._forward_pre_hooks)) == (1, 1)
    assert not model.head._forward_pre_hooks
    assert not logging.getLogger("torch._subclasses.fake_tensor").disabled


def test_surgery_draws_no_random_numbers_and_keeps_state():
    """Dropout and drop path must not run: random state, weights and training mode stay."""
    model = timm.create_model("resnet26", drop_rate=0.5, drop_path_rate=0.5)
    state, before = copy.deepcopy(model.state_dict()), draws()
    deform(model, 3, modulated=True)
    activate(model, ["layer3.0.conv2"])
    transform_input(model)
    assert draws() == before
    assert all(torch.equal(model.state_dict()[name], value) for name, value in state.items())
    assert all(module.training for module in model.modules())


SILENT = [
    "resnet18", "resnext50_32x4d", "densenet121", "vgg11_bn", "mobilenet_v2", "mobilenet_v3_small", "googlenet",
    "mnasnet0_5", "shufflenet_v2_x0_5", "squeezenet1_0", "alexnet",
]  # fmt: skip


def test_surgery_prints_nothing_on_torchvision_networks(capfd, recwarn):
    """No output and no warning for networks whose forward pass or trace would print."""
    for name in SILENT:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # GoogLeNet's own
            model = torchvision.models.get_model(name, weights=None)
        assert any(isinstance(module, DeformConv2d) for module in deform(model, 1).modules())
        assert capfd.readouterr() == ("", ""), name
    assert len(recwarn) == 0


FAILING_FIRST = """
from torch import nn
from dcnlab.surgery import deform
net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 32**2, 2))
print(type(deform(net, 1)[1]).__name__)
"""


def test_a_failing_forward_pass_prints_nothing_on_stderr():
    """The pass that orders the layers may fail after the last convolution."""
    done = python("-c", FAILING_FIRST)
    assert (done.stdout, done.stderr, done.returncode) == ("DeformConv2d\n", "", 0)


def test_lazy_networks_are_deformed_by_number():
    """A network with lazy layers that has not run yet is ordered and still initializes later."""
    network = nn.Sequential(
        *(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1)),
        *(nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(5)),
    )
    deform(network, 1)
    assert isinstance(network[2], DeformConv2d)
    assert network(torch.randn(2, 3, 8, 8)).shape == (2, 5)


def test_offsets_convolutions_alone_change_their_dilation():
    """The layer keeps its dilation; the offsets' convolution reads a dense 3x3, and the output keeps its size."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=2, dilation=2), nn.Conv2d(4, 4, 3, padding=1))
    dilate_offsets(deform(model, ["0"]), 1)
    assert (model[0].dilation, model[0].offset_conv.dilation) == ((2, 2), (1, 1))
    assert (model[0].padding, model[0].offset_conv.padding) == ((2, 2), (1, 1))
    nn.init.normal_(model[0].offset_conv.weight)
    seen = torch.zeros(1, 3, 9, 9)
    seen[0, 0, 4, 6] = 1  # two pixels from the centre: outside a dense 3x3
    offsets = model[0].offset_conv(seen)
    assert offsets[0, :, 4, 4].abs().max() == 0 < offsets[0, :, 4, 5].abs().max()
    assert model(torch.zeros(1, 3, 9, 9)).shape == (1, 4, 9, 9)


@pytest.mark.filterwarnings("ignore:deform")
@pytest.mark.parametrize("surgery", [deform, activate])
@pytest.mark.parametrize("size", [(15, 12), (16, 16)])
@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(3, 2, 1), (5, 2, 1), (2, 1, 2), (3, 2, 3)])
def test_tensorflow_padding_stays_exact(surgery, size, kernel, stride, dilation):
    """timm's Conv2dSame pads by the input's size, more on the far side; a replaced layer does likewise."""
    conv = Conv2dSame(6, 6, kernel, stride, dilation=dilation, groups=6)
    model, image = nn.Sequential(conv), torch.randn(2, 6, *size)
    before = model(image)
    layer = surgery(model, "0")[0]
    torch.testing.assert_close(model(image), before)
    assert layer.weight is conv.weight
    OffsetStatistics.of(layer, (image,))
    if surgery is deform:
        layer.offset_conv.bias.data.fill_(1.0)  # each tap one pixel down and to the right
        padded = functional.pad(pad_same(image, layer.kernel_size, layer.stride, layer.dilation), (0, 1, 0, 1))[
            ..., 1:, 1:
        ]
        expected = functional.conv2d(padded, conv.weight, conv.bias, stride, 0, dilation, 6)
        torch.testing.assert_close(model(image), expected)


def test_dilation_of_tensorflow_padding_keeps_the_size():
    """A dilated Conv2dSame, plain or deformable, still gives ceil(size / stride)."""
    image = torch.randn(1, 4, 16, 13)
    for conv in (Conv2dSame(4, 4, 3, 2), DeformConv2d(4, 4, 3, 2, tensorflow_padding=True)):
        model = dilate(nn.Sequential(conv), "0", 3)
        expected = functional.conv2d(pad_same(image, (3, 3), (2, 2), (3, 3)), conv.weight, conv.bias, 2, 0, 3)
        torch.testing.assert_close(model(image), expected)
        assert expected.shape[2:] == (8, 7)
    torch.testing.assert_close(dilate_offsets(model, 1)(image), expected)


def test_subclasses_that_only_convolve_are_replaced():
    """A subclass that inherits forward computes what nn.Conv2d computes."""

    class Named(nn.Conv2d):
        pass

    assert isinstance(deform(nn.Sequential(Named(3, 4, 3)), "0")[0], DeformConv2d)


def test_a_number_counts_layers_of_the_kernel_size():
    """3x3 by default; 5x5 by its number; all above 1x1 by None."""
    model = nn.Sequential(*(nn.Conv2d(3, 3, size, padding=size // 2) for size in (3, 5, 1, 7, 1)))
    assert conv_layers(model, None) == ["0", "1", "3"]
    with pytest.raises(LayerNotFoundError, match=r"2 asked for, but the model has 1 3x3 .*: 1 of 5x5, 1 of 7x7"):
        deform(model, 2)
    for surgery, kind in ((deform, DeformConv2d), (activate, ActiveConv2d)):
        changed = surgery(surgery(copy.deepcopy(model), 1, kernel_size=5), 1, kernel_size=None)
        assert [isinstance(layer, kind) for layer in changed] == [False, True, False, True, False]


def test_wide_branches_of_depthwise_layers_are_announced():
    """The warning counts both kinds of branches, as a hand count and the layers themselves do."""
    model = nn.Sequential(nn.Conv2d(100, 100, 3, padding=1, groups=100))
    with pytest.warns(UserWarning, match=r"1 depthwise layers add 16,218 .* model's 1,000; .* adds 2,718"):
        deform(copy.deepcopy(model), 1)  # 100 * 9 * 18 + 18, and 100 * 9 + 100 * 18 + 18
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small = deform(model, 1, offset_branch="depthwise")[0].offset_conv
    assert sum(parameter.numel() for parameter in small.parameters()) == 2718


def test_a_depthwise_branch_starts_plain_and_learns():
    """It begins without offsets; after a step its kernels get a gradient too."""
    model, image = nn.Sequential(nn.Conv2d(4, 4, 3, 2, padding=1, groups=4)), torch.randn(2, 4, 9, 9)
    before = model(image)
    branch = deform(model, 1, modulated=True, offset_branch="depthwise")[0].offset_conv
    torch.testing.assert_close(model(image), before)
    for _ in range(2):
        model.zero_grad()
        model(image).square().sum().backward()
        with torch.no_grad():
            branch.weight -= 0.01 * branch.weight.grad
    assert branch.weight.abs().min() > 0
    assert branch.depthwise.grad.abs().min() > 0
    with pytest.raises(ValueError, match="offset_branch: 'grouped' is none of dense, depthwise"):
        DeformConv2d(4, 4, 3, offset_branch="grouped")
