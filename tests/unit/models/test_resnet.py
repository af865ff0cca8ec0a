"""Classifiers: torchvision's networks, surgery where asked, and a clear word about weights that do not fit."""

from urllib.error import URLError

import pytest
import torch
import torchvision
from torch import nn

from dcnlab.io.errors import ConfigError
from dcnlab.models.resnet import classifier, resnet10_slim
from dcnlab.nn import ActiveConv2d, AddedConv2d, DeformConv2d


def deformable(model):
    return [name for name, module in model.named_modules() if isinstance(module, DeformConv2d)]


def test_resnet10_slim_has_four_blocks_and_a_7x7_map():
    """Channels 16, 24, 32 and 48, and 7x7 positions for images of 56 pixels."""
    model = resnet10_slim(5)
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert [conv.out_channels for conv in convs] == [16, 16, 16, 24, 24, 32, 32, 48, 48]
    shapes = []
    model.layer4.register_forward_hook(lambda module, args, output: shapes.append(tuple(output.shape)))
    assert model(torch.zeros(2, 3, 56, 56)).shape == (2, 5)
    assert shapes == [(2, 48, 7, 7)]


def test_the_last_n_convolutions_become_deformable():
    """With zero offsets the output does not change for 1, 2 and 3 layers."""
    images = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    outputs = []
    for layers in range(4):
        torch.manual_seed(1)
        model = classifier("resnet10_slim", 10, deform_layers=layers).eval()
        names = ["layer4.0.conv2", "layer4.0.conv1", "layer3.0.conv2"][:layers]
        assert sorted(deformable(model)) == sorted(names)
        outputs.append(model(images))
    for output in outputs[1:]:
        assert torch.allclose(output, outputs[0], atol=1e-5)


def test_every_layer_computes_in_channels_last():
    """Images come in NCHW order; each convolution and norm must return channels_last."""
    model = classifier("resnet10_slim", 10, deform_layers=2)
    orders = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            module.register_forward_hook(
                lambda _m, _i, output: orders.append(output.is_contiguous(memory_format=torch.channels_last))
            )
    model(torch.randn(2, 3, 56, 56))
    assert len(orders) > 20
    assert all(orders)


def test_options_reach_the_deformable_layers():
    """Four offset groups with masks need 108 channels of the offset convolution."""
    layer = classifier("resnet10_slim", 10, deform_layers=1, offset_groups=4, modulated=True).layer4[0].conv2
    assert layer.offset_conv.out_channels == 4 * 9 * 3


def test_active_layers_replace_the_last_convolutions():
    """deform_kind=active changes the same layers that would be deformable."""
    model = classifier("resnet10_slim", 10, deform_layers=2, deform_kind="active", offset_groups=4)
    active = {name: m.offset_groups for name, m in model.named_modules() if isinstance(m, ActiveConv2d)}
    assert active == {"layer4.0.conv1": 4, "layer4.0.conv2": 4}
    assert deformable(model) == []


def test_a_control_replaces_the_last_convolutions(tmp_path):
    """deform_kind=added changes the same layers, takes a plain network's weights, and gives its output."""
    torch.manual_seed(0)
    plain = classifier("resnet10_slim", 10).eval()
    torch.save(plain.state_dict(), tmp_path / "plain.pt")
    added = classifier("resnet10_slim", 10, str(tmp_path / "plain.pt"), 2, deform_kind="added").eval()
    names = [name for name, module in added.named_modules() if isinstance(module, AddedConv2d)]
    assert names == ["layer4.0.conv1", "layer4.0.conv2"]
    images = torch.randn(2, 3, 56, 56)
    assert torch.equal(added(images), plain(images))


def test_a_spatial_transformers_checkpoint_serves_others(tmp_path):
    """The backbone's weights load into plain and active networks with the same output."""
    torch.manual_seed(0)
    model = classifier("resnet10_slim", 10, spatial_transformer=True, deform_layers=1, deform_kind="active").eval()
    torch.save({"state_dict": {f"model.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "last.ckpt")
    plain = classifier("resnet10_slim", 10, weights=str(tmp_path / "last.ckpt")).eval()
    active = classifier("resnet10_slim", 10, str(tmp_path / "last.ckpt"), 2, deform_kind="active").eval()
    images = torch.randn(2, 3, 56, 56)
    assert torch.allclose(model(images), plain(images), atol=1e-5)
    assert torch.allclose(model(images), active(images), atol=1e-5)


def test_dilation_changes_the_last_stage_and_its_offsets():
    """Only layer4's convolutions and their offset convolution get dilation 2."""
    model = classifier("resnet10_slim", 10, dilation=2, deform_layers=1)
    dilated = [name for name, m in model.named_modules() if getattr(m, "dilation", 1) == (2, 2)]
    assert dilated == ["layer4.0.conv1", "layer4.0.conv2", "layer4.0.conv2.offset_conv"]
    assert model(torch.zeros(1, 3, 56, 56)).shape == (1, 10)


def test_torchvision_weights_give_torchvisions_logits(tmp_path):
    """ResNet-18 with three deformable layers at offset zero gives the same logits."""
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(num_classes=7).eval()
    torch.save(theirs.state_dict(), tmp_path / "r18.pt")
    ours = classifier("resnet18", 7, weights=str(tmp_path / "r18.pt"), deform_layers=3).eval()
    assert len(deformable(ours)) == 3
    images = torch.randn(2, 3, 64, 64)
    assert torch.allclose(ours(images), theirs(images), atol=1e-4)


def test_another_class_count_keeps_all_but_the_last_layer(tmp_path):
    """Weights of 10 classes load into a network of 3, whose classifier is new."""
    torch.save(resnet10_slim(10).state_dict(), tmp_path / "ten.pt")
    model = classifier("resnet10_slim", 3, weights=str(tmp_path / "ten.pt"))
    saved = torch.load(tmp_path / "ten.pt", weights_only=True)
    assert torch.equal(model.layer4[0].conv2.weight, saved["layer4.0.conv2.weight"])
    assert model.fc.weight.shape == (3, 48)


def complaint(*args, **kwargs):
    """The error's text, which is one line."""
    with pytest.raises(ConfigError, match=r"\A[^\n]+\Z") as caught:
        classifier(*args, **kwargs)
    return str(caught.value)


def test_unfitting_weights_name_the_first_parameters(tmp_path):
    """Missing, unexpected and reshaped tensors are named, the rest is counted."""
    path = tmp_path / "w.pt"
    state = resnet10_slim(10).state_dict()
    torch.save({k: v for k, v in state.items() if not k.startswith("layer2")}, path)
    message = complaint("resnet10_slim", 10, weights=str(path))
    assert "missing: layer2.0.conv1.weight" in message
    assert "more" in message
    torch.save(state | {"extra.weight": torch.zeros(1)}, path)
    assert "unexpected: extra.weight" in complaint("resnet10_slim", 10, weights=str(path))
    torch.save(state | {"conv1.weight": torch.zeros(8, 3, 3, 3)}, path)
    assert "conv1.weight is 8x3x3x3, should be 16x3x3x3" in complaint("resnet10_slim", 10, weights=str(path))


def test_foreign_weight_files_are_refused(tmp_path):
    """torch raises many kinds of errors for them; each must become one line."""
    path = tmp_path / "w.pt"
    assert str(path) in complaint("resnet18", 10, weights=str(path))
    # What torch's loader takes these for differs, and so does its error: UnpicklingError, KeyError, EOFError, ...
    for content in (b"no weights here", b"hello", b"", b"PK\x03\x04", b"<html>", b"\x80\x02]q\x00."):
        path.write_bytes(content)
        assert "state dict" in complaint("resnet18", 10, weights=str(path)), content
    for other in ([1, 2], {1: torch.zeros(1)}, {"model": [torch.zeros(1)]}):
        torch.save(other, path)
        assert "is not a state dict" in complaint("resnet18", 10, weights=str(path)), other
    torch.save({"model": {"fc.weight": torch.zeros(1)}}, path)  # a trainer's file, of another network
    assert "does not fit resnet18; missing: conv1.weight" in complaint("resnet18", 10, weights=str(path))


class Malicious:
    def __reduce__(self):
        return print, ("code ran",)


def test_a_weights_file_cannot_run_code(tmp_path, capsys):
    torch.save({"conv1.weight": Malicious()}, tmp_path / "w.pt")
    complaint("resnet18", 10, weights=str(tmp_path / "w.pt"))
    assert "code ran" not in capsys.readouterr().out


def test_imagenet_weights_without_internet_are_one_line(monkeypatch):
    """A failed download names the network; the slim network has no such weights."""

    def unreachable(*args, **kwargs):
        raise URLError("Name or service not known")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", unreachable)
    message = complaint("resnet50", 10, weights="imagenet")
    assert "resnet50" in message
    assert "cannot be downloaded" in message
    assert "does not have" in complaint("resnet10_slim", 10, weights="imagenet")


def test_imagenet_weights_load_without_their_head(monkeypatch):
    """The classifier of 1000 classes is left out and a new one of 12 is made."""
    torch.manual_seed(0)
    state = torchvision.models.resnet18().state_dict()
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *args, **kwargs: state)
    model = classifier("resnet18", 12, weights="imagenet")
    assert torch.equal(model.layer4[1].conv2.weight, state["layer4.1.conv2.weight"])
    assert model.fc.out_features == 12


def test_too_many_deformable_layers_or_groups_are_named():
    """The error names model.deform_layers or model.offset_groups with its value."""
    assert "model.deform_layers is 99" in complaint("resnet10_slim", 10, deform_layers=99)
    assert "model.offset_groups 5" in complaint("resnet10_slim", 10, deform_layers=1, offset_groups=5)


def test_an_unknown_network_names_those_there_are():
    assert "resnet10_slim" in complaint("resnet19", 10)
