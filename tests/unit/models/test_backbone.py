"""Backbones compute what torchvision's networks do, but for what the paper changes in them."""

import logging

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.segmentation import fcn_resnet50
from torchvision.ops import FrozenBatchNorm2d

from dcnlab.io.errors import ConfigError
from dcnlab.models.backbone import backbone
from dcnlab.nn import DeformConv2d


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_every_stage_at_stride_32_equals_torchvisions(name, tmp_path):
    """With output_stride=32 and the same weights all four stages agree in float64."""
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, name)().eval().double()
    torch.save(theirs.state_dict(), tmp_path / "w.pt")
    ours = backbone(name, str(tmp_path / "w.pt"), output_stride=32, dilation=1).eval().double()
    stages = IntermediateLayerGetter(theirs, {f"layer{i}": f"res{i + 1}" for i in range(1, 5)})
    images = torch.randn(2, 3, 65, 97, dtype=torch.float64)
    with torch.no_grad():
        found, expected = ours(images), stages(images)
    assert list(found) == list(expected)
    for stage in expected:
        torch.testing.assert_close(found[stage], expected[stage])
        assert ours.channels[stage] == expected[stage].shape[1]
        assert expected[stage].shape[2] == -(-65 // ours.strides[stage])


def test_res5_at_stride_16_dilates_its_first_block_too(tmp_path):
    """torchvision leaves the first block undilated; with that changed the outputs agree."""
    torch.manual_seed(0)
    theirs = torchvision.models.resnet50(replace_stride_with_dilation=[False, False, True]).eval()
    torch.save(theirs.state_dict(), tmp_path / "w.pt")
    ours = backbone("resnet50", str(tmp_path / "w.pt")).eval()
    assert ours.strides == {"res2": 4, "res3": 8, "res4": 16, "res5": 16}
    assert [block.conv2.dilation for block in ours.layer4] == [(2, 2)] * 3
    assert [block.conv2.dilation for block in theirs.layer4] == [(1, 1), (2, 2), (2, 2)]
    theirs.layer4[0].conv2.dilation = theirs.layer4[0].conv2.padding = (2, 2)
    images = torch.randn(1, 3, 64, 80)
    with torch.no_grad():
        expected = IntermediateLayerGetter(theirs, {"layer4": "res5"})(images)["res5"]
        torch.testing.assert_close(ours(images)["res5"], expected, atol=1e-4, rtol=1e-4)


def test_stride_on_1x1_strides_the_first_convolution():
    """The layout of the original ResNet, which the authors' weights need."""
    ours = backbone("resnet50", stride_on_1x1=True, output_stride=32)
    firsts = [stage[0] for stage in ours.stages()]
    assert [block.conv1.stride for block in firsts] == [(1, 1), (2, 2), (2, 2), (2, 2)]
    assert [block.conv2.stride for block in firsts] == [(1, 1)] * 4
    assert ours.strides["res5"] == 32
    assert backbone("resnet50", stride_on_1x1=True).layer4[0].conv1.stride == (1, 1)
    with pytest.raises(ConfigError, match="no bottleneck"):
        backbone("resnet18", stride_on_1x1=True)


def test_deformable_layers_start_as_the_plain_network():
    """The last three 3x3 layers are deformable, and zero offsets give the plain output."""
    torch.manual_seed(0)
    plain = backbone("resnet50", dilation=4).eval()
    torch.manual_seed(0)
    deformed = backbone("resnet50", dilation=4, deform_layers=3).eval()
    names = [name for name, module in deformed.named_modules() if isinstance(module, DeformConv2d)]
    assert names == ["layer4.0.conv2", "layer4.1.conv2", "layer4.2.conv2"]
    assert deformed.layer4[2].conv2.offset_conv.dilation == (4, 4)
    images = torch.randn(1, 3, 48, 64)
    with torch.no_grad():
        a, b = plain(images), deformed(images)
    for stage in a:
        torch.testing.assert_close(a[stage], b[stage], atol=1e-4, rtol=1e-4)


def test_frozen_stages_and_norms_do_not_move_in_training():
    """One optimizer step: frozen weights and running statistics keep their values."""
    model = backbone("resnet18", freeze_norm=True, freeze_at=2).train()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(torch.randn(2, 3, 64, 64))["res5"].square().mean().backward()
    optimizer.step()
    moved = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert moved
    assert not [key for key in moved if key.startswith(("conv1", "layer1")) or "bn" in key or "downsample.1" in key]


def test_freeze_at_freezes_only_the_norms_of_early_stages():
    """With freeze_at=2 the norms of conv1 and res2 are frozen; later ones learn."""
    model = backbone("resnet18", freeze_at=2)
    frozen = {name for name, module in model.named_modules() if isinstance(module, FrozenBatchNorm2d)}
    assert frozen == {"bn1", "layer1.0.bn1", "layer1.0.bn2", "layer1.1.bn1", "layer1.1.bn2"}
    assert isinstance(model.layer2[0].bn1, nn.BatchNorm2d)


def test_frozen_norms_compute_what_the_trained_ones_did(tmp_path):
    """Folding mean and variance must give the output of the norm in evaluation mode."""
    torch.manual_seed(0)
    theirs = fcn_resnet50(weights_backbone=None).backbone
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    torch.save(theirs.state_dict(), tmp_path / "w.pt")
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        live = backbone("resnet50", str(tmp_path / "w.pt")).eval()(images)["res5"]
        frozen = backbone("resnet50", str(tmp_path / "w.pt"), freeze_norm=True).train()(images)["res5"]
    torch.testing.assert_close(frozen, live, atol=1e-4, rtol=1e-4)


def test_unmatched_weights_are_reported_by_name(tmp_path, caplog):
    """One line names the unused classifier and the new offset convolution."""
    path = tmp_path / "w.pt"
    torch.save(torchvision.models.resnet18().state_dict(), path)
    with caplog.at_level(logging.INFO, "dcnlab"):
        backbone("resnet18", str(path), deform_layers=1)
    line = caplog.messages[0]
    assert "not used: fc.weight, fc.bias" in line
    assert "layer4.1.conv2.offset_conv.weight" in line


def test_a_run_checkpoint_initializes_a_backbone(tmp_path):
    """Tensors below model.backbone are loaded, others such as a classifier are not."""
    torch.manual_seed(1)
    trained = backbone("resnet10_slim", deform_layers=2)
    state = {f"model.backbone.{key}": value for key, value in trained.state_dict().items()}
    torch.save({"state_dict": state | {"model.classify.weight": torch.zeros(1)}}, tmp_path / "last.ckpt")
    torch.manual_seed(2)
    loaded = backbone("resnet10_slim", str(tmp_path / "last.ckpt"), deform_layers=2)
    for key, value in loaded.state_dict().items():
        assert torch.equal(value, trained.state_dict()[key]), key
