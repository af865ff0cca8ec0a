"""Aligned-Inception-ResNet has the paper's size, stays aligned with the image, and takes surgery and weights."""

import logging

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dcnlab.config import names
from dcnlab.config.schema import BackboneConfig, Config, ModelConfig
from dcnlab.io.errors import ConfigError
from dcnlab.models.aligned_inception_resnet import AlignedInceptionBlock, aligned_inception_resnet
from dcnlab.models.backbone import backbone
from dcnlab.models.counting import count_parameters
from dcnlab.models.resnet import classifier
from dcnlab.nn import DeformConv2d
from dcnlab.surgery import conv_layers
from dcnlab.training.build_network import task_module

NAME = "aligned_inception_resnet"

# Of one feature of res5: pixels from its centre to the last that it sees. Each layer adds half its kernel in steps of
# its input. Per stage, branch b's 3x3 convolutions, two a block, the very first before the stage's stride.
UP_TO_RES4 = (
    3  # 7x7 on pixels
    + 1 * 2  # 3x3 pooling at stride 2
    + 6 * 4  # res2
    + (1 * 4 + 7 * 8)  # res3
    + (1 * 8 + 45 * 16)  # res4
)
RADIUS = {
    16: UP_TO_RES4 + 6 * 2 * 16,  # res5 of dilation 2
    32: UP_TO_RES4 + (1 * 16 + 5 * 32),
}


def deformable(model):
    return [name for name, module in model.named_modules() if isinstance(module, DeformConv2d)]


def test_parameters_equal_the_papers_layer_by_layer():
    """Convolutions and norms of every block are counted by hand from the paper's description."""
    with torch.device("meta"):
        model = aligned_inception_resnet(1000)
    convs = {"stem": 3 * 64 * 7 * 7}
    norms = {"stem": 2 * 64}
    before = 64
    for number, (blocks, p) in enumerate([(3, 64), (4, 128), (23, 256), (3, 512)], start=1):
        for block in range(blocks):
            branch_a = before * p + 9 * p * p
            branch_b = before * p // 2 + 2 * 9 * (p // 2) * (p // 2)
            shortcut = before * 4 * p if block == 0 else 0
            convs[f"layer{number}.{block}"] = branch_a + branch_b + (p + p // 2) * 4 * p + shortcut
            norms[f"layer{number}.{block}"] = 2 * (p + p + 3 * (p // 2) + 4 * p + (4 * p if block == 0 else 0))
            before = 4 * p
    for key, expected in convs.items():
        parts = [model.conv1, model.bn1] if key == "stem" else [model.get_submodule(key)]
        layers = [layer for part in parts for layer in part.modules()]
        found = [
            [x.numel() for m in layers if type(m) is kind for x in m.parameters()]
            for kind in (nn.Conv2d, nn.BatchNorm2d)
        ]
        assert [sum(numbers) for numbers in found] == [expected, norms[key]], key
    # The same sums on paper: 9,408 + 311,296 + 1,753,088 + 38,764,544 + 21,364,736 of convolutions.
    assert sum(convs.values()) == 62_203_072
    assert sum(norms.values()) == 129_728
    assert sum(x.numel() for x in model.parameters()) == 62_203_072 + 129_728 + (2048 * 1000 + 1000) == 64_381_800


def test_macs_at_224_pixels_equal_a_count_by_hand():
    """torch's FlopCounterMode on the meta device, compared with the blocks' formula."""
    with torch.device("meta"):
        model, images = aligned_inception_resnet(1000).eval(), torch.zeros(1, 3, 224, 224)
    with FlopCounterMode(display=False) as counter:
        model(images)
    # In p^2 h w, which is (64 * 56)^2 in every stage, a block of c channels costs 1.5 c / p for the 1x1 in, 13.5 for
    # the 3x3, 6 for the 1x1 out: 25.5 where c = 4 p. res2's first has c = p and 4 more for the shortcut. The other
    # first ones have c = 2 p, their 1x1 in at four times as many positions, and 8 for the shortcut: 4 * 3 + 19.5 + 8.
    blocks = (25 + 2 * 25.5) + (39.5 + 3 * 25.5) + (39.5 + 22 * 25.5) + (39.5 + 2 * 25.5)
    by_hand = 9_408 * 112**2 + blocks * (64 * 56) ** 2 + 2048 * 1000
    assert counter.get_total_flops() / 2 == by_hand == 11_462_246_400


def test_a_block_joins_two_branches_and_its_shortcut():
    """Weight shapes and the output equal a composition of plain conv2d calls."""
    torch.manual_seed(0)
    block = AlignedInceptionBlock(12, 4, stride=2).eval().double()
    weights = {name: module.weight for name, module in block.named_modules() if isinstance(module, nn.Conv2d)}
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    assert shapes == {
        "branch_a.conv1": (4, 12, 1, 1),
        "branch_a.conv2": (4, 4, 3, 3),
        "branch_b.conv1": (2, 12, 1, 1),
        "branch_b.conv2": (2, 2, 3, 3),
        "branch_b.conv3": (2, 2, 3, 3),
        "conv": (16, 6, 1, 1),
        "downsample.0": (16, 12, 1, 1),
    }
    x = torch.randn(2, 12, 7, 9, dtype=torch.float64)

    def layer(name, value, stride=1):
        pad = weights[name].shape[-1] // 2
        # A norm of fresh statistics divides by the root of 1 + 1e-5.
        return nn.functional.conv2d(value, weights[name], stride=stride, padding=pad) / (1 + 1e-5) ** 0.5

    a = layer("branch_a.conv2", layer("branch_a.conv1", x).relu(), 2).relu()
    b = layer("branch_b.conv2", layer("branch_b.conv1", x).relu(), 2).relu()
    b = layer("branch_b.conv3", b).relu()
    expected = (layer("conv", torch.cat([a, b], 1)) + layer("downsample.0", x, 2)).relu()
    with torch.no_grad():
        assert expected.shape == (2, 16, 4, 5)
        torch.testing.assert_close(block(x), expected)


@pytest.fixture(scope="module", params=[16, 32], ids=["stride 16", "stride 32"])
def dense(request):
    """The features in float64, at an output stride, with random weights."""
    torch.manual_seed(0)
    model = backbone(NAME, output_stride=request.param, dilation=2 if request.param == 16 else 1)
    return model.double().eval().requires_grad_(False)


@pytest.mark.parametrize("along", ["columns", "rows"])
def test_shifting_the_image_by_the_stride_shifts_features(dense, along):
    """The network is aligned: away from the borders, features move by exactly one index."""
    stride = dense.strides["res5"]
    reach = -(-RADIUS[stride] // stride)  # features from a border that see beyond it
    count = 2 * reach + 6
    # Narrow images will do: the shift leaves their other side where it is.
    torch.manual_seed(1)
    long = torch.randn(1, 3, stride, (count + 1) * stride, dtype=torch.float64)
    views = [long[..., : count * stride], long[..., stride:]]
    if along == "rows":
        views = [view.transpose(2, 3) for view in views]
    features, shifted = (dense(view)["res5"].squeeze(2 if along == "columns" else 3) for view in views)
    assert features.shape == (1, 2048, count)
    inner, moved = features[..., reach + 1 : count - reach], shifted[..., reach : count - reach - 1]
    assert inner.shape[-1] == 5
    size = inner.abs().max()
    torch.testing.assert_close(moved / size, inner / size, rtol=0, atol=1e-11)
    assert (inner.diff(dim=-1).abs().amax(dim=1) > 1e-3 * size).all()


@pytest.mark.parametrize("along", ["columns", "rows"])
def test_a_feature_is_centred_at_its_index_times_the_stride(dense, along):
    """The gradient's centre lies at index times stride, which unaligned strides would move."""
    stride = dense.strides["res5"]
    index = -(-RADIUS[stride] // stride) + 1
    size = (stride, 2 * index * stride)
    pixels = torch.ones(1, 3, *(size if along == "columns" else size[::-1]), dtype=torch.float64, requires_grad=True)
    pool, kept = dense.maxpool, {name: value.clone() for name, value in dense.state_dict().items()}
    # Positive weights, through which no ReLU cuts, and a mean over the window of the maximum, which has one gradient
    # for all its pixels: then whatever a feature may see has a gradient.
    dense.maxpool = nn.AvgPool2d(pool.kernel_size, pool.stride, pool.padding)
    try:
        for module in dense.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.fill_(1 / module.weight[0].numel())
        features = dense(pixels)["res5"]
        (features[0, 0, 0, index] if along == "columns" else features[0, 0, index, 0]).backward()
    finally:
        dense.maxpool = pool
        dense.load_state_dict(kept)
    seen = pixels.grad[0].abs().sum(dim=(0, 1) if along == "columns" else (0, 2)).nonzero().flatten()
    centre, radius = index * stride, RADIUS[stride]
    assert seen.tolist() == list(range(centre - radius, centre + radius + 1))


def test_stages_have_the_strides_and_channels_that_heads_expect():
    """Channels, strides and sizes for an image of 33x50 pixels."""
    features = backbone(NAME).eval()
    assert features.channels == {"res2": 256, "res3": 512, "res4": 1024, "res5": 2048}
    assert features.strides == {"res2": 4, "res3": 8, "res4": 16, "res5": 16}
    with torch.no_grad():
        maps = features(torch.randn(1, 3, 33, 50))
    assert {name: tuple(x.shape) for name, x in maps.items()} == {
        "res2": (1, 256, 9, 13),
        "res3": (1, 512, 5, 7),
        "res4": (1, 1024, 3, 4),
        "res5": (1, 2048, 3, 4),
    }
    assert backbone(NAME, output_stride=32).strides["res5"] == 32


def test_deform_layers_count_single_convolutions():
    """Nine is all of res5: three blocks of three convolutions, which are dilated, too."""
    with torch.device("meta"):
        names = conv_layers(aligned_inception_resnet())
    assert len(names) == 3 * (3 + 4 + 23 + 3)
    block = ["branch_a.conv2", "branch_b.conv2", "branch_b.conv3"]
    assert names[-9:] == [f"layer4.{number}.{conv}" for number in range(3) for conv in block]
    deformed = backbone(NAME, deform_layers=3)
    assert deformable(deformed) == [f"layer4.2.{conv}" for conv in block]
    dilated = {name for name, m in deformed.named_modules() if getattr(m, "dilation", 1) == (2, 2)}
    assert dilated == {*names[-9:], *(f"layer4.2.{conv}.offset_conv" for conv in block)}


@pytest.mark.parametrize(("task", "name"), [(network.task, name) for name, network in names.NETWORKS.items()])
def test_every_network_builds_on_this_backbone(task, name):
    """Each network's size differs from that with ResNet-101 by the backbones' difference."""

    def size(of):
        model = ModelConfig(name=name, backbone=BackboneConfig(name=of))
        with torch.device("meta"):
            return count_parameters(task_module(Config(task=task, model=model), ["a", "b"]).model)

    # Stages of equal channels: all that differs is the counts of the two networks themselves, without classifiers.
    assert size(NAME) - size("resnet101") == (64_381_800 - 2_049_000) - (44_549_160 - 2_049_000)


def test_deformable_layers_start_as_the_plain_network():
    """Zero offsets give the plain features for nine layers with four offset groups."""
    features = []
    for layers in (0, 9):
        torch.manual_seed(0)
        model = backbone(NAME, deform_layers=layers, offset_groups=4 if layers else 1).eval()
        images = torch.randn(1, 3, 32, 48, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            features.append(model(images)["res5"])
    torch.testing.assert_close(features[1], features[0], rtol=1e-4, atol=1e-4 * features[0].abs().max().item())


def test_frozen_stages_and_norms_do_not_learn():
    model = backbone(NAME, freeze_at=2, freeze_norm=True)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    learn = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learn == {"layer2", "layer3", "layer4"}
    partly = backbone(NAME, freeze_at=2)
    norms = {name.split(".")[0] for name, module in partly.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert norms == {"layer2", "layer3", "layer4"}


def test_a_classifier_initializes_dense_backbones(tmp_path, caplog):
    """Its weights load, and a line names the classifier and the new offsets."""
    path = tmp_path / "w.pt"
    trained = classifier(NAME, 4, deform_layers=1)
    assert trained.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 4)
    torch.save(trained.state_dict(), path)
    with caplog.at_level(logging.INFO, "dcnlab"):
        features = backbone(NAME, str(path), deform_layers=2)
    assert "not used: fc.weight, fc.bias" in caplog.messages[0]
    assert "layer4.2.branch_b.conv2.offset_conv.weight" in caplog.messages[0]
    state = trained.state_dict()
    for name, value in features.state_dict().items():
        if not name.startswith("layer4.2.branch_b.conv2.offset_conv"):
            assert torch.equal(value, state[name]), name


def test_impossible_backbone_settings_are_one_line():
    """ImageNet weights, stride_on_1x1 and 100 deformable layers of 99."""
    with pytest.raises(ConfigError, match=f"imagenet.*{NAME} does not have") as error:
        classifier(NAME, 4, weights="imagenet")
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match=f"stride_on_1x1.*{NAME}") as error:
        backbone(NAME, stride_on_1x1=True)
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match=r"deform_layers is 100.*99"):
        classifier(NAME, 4, deform_layers=100)
