"""Weights in the forms of other programs: each gives the network that was saved."""

import logging
import pickle
from argparse import Namespace

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.detection import fasterrcnn_resnet50_fpn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from dcnlab.io.errors import ConfigError
from dcnlab.models.weights import load
from dcnlab.surgery import deform


class Packed(nn.Module):
    """mmcv's DeformConv2dPack and ModulatedDeformConv2dPack, on torchvision's operator and a plain sigmoid."""

    def __init__(self, conv, modulated, offset_groups=1, name="conv_offset"):
        super().__init__()
        self.weight, self.bias, self.sizes = conv.weight, conv.bias, (conv.stride, conv.padding, conv.dilation)
        self.modulated, self.name = modulated, name
        channels = (3 if modulated else 2) * 9 * offset_groups
        branch = nn.Conv2d(conv.in_channels, channels, 3, conv.stride, conv.padding, conv.dilation)
        nn.init.normal_(branch.weight, std=0.05)
        setattr(self, name, branch)

    def forward(self, x):
        return sampled(x, getattr(self, self.name)(x), self)


class Detectron2Block(Bottleneck):
    """detectron2's DeformBottleneckBlock: the offset convolution stands next to the one that it moves."""

    def use(self, modulated):
        self.packed = [Packed(self.conv2, modulated)]
        self.conv2_offset = self.packed[0].conv_offset
        self.conv2.forward = lambda x: self.packed[0](x)
        return self


def sampled(x, predicted, layer):
    if not layer.modulated:
        return torchvision.ops.deform_conv2d(x, predicted, layer.weight, layer.bias, *layer.sizes)
    first, second, logits = predicted.chunk(3, dim=1)
    offset, mask = torch.cat((first, second), 1), logits.sigmoid()
    return torchvision.ops.deform_conv2d(x, offset, layer.weight, layer.bias, *layer.sizes, mask)


def small(seed, block=BasicBlock):
    """A ResNet of one block a stage, with norms that do something."""
    torch.manual_seed(seed)
    model = ResNet(block, [1, 1, 1, 1], num_classes=5, width_per_group=64 if block is BasicBlock else 8).eval()
    for norm in [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]:
        for value in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
            value.uniform_(0.5, 1.5)
    return model.requires_grad_(False)


def reloaded(state, tmp_path, block=BasicBlock, surgery=lambda model: model):
    torch.save(state, tmp_path / "w.pth")
    model = surgery(small(1, block))
    load(model, "resnet18", str(tmp_path / "w.pth"))
    return model.eval()


def prefixed(prefix, state):
    return {prefix + key: value for key, value in state.items()}


def other():
    """Another network of the same shapes, which is not the one to take."""
    return small(7).state_dict()


FORMS = {
    "torchvision's scripts": lambda s: {
        "model": s, "optimizer": {"state": {0: {"step": torch.ones(1)}}, "param_groups": []}, "args": Namespace(lr=0.1),
        "model_ema": other(),
    },
    "DataParallel": lambda s: prefixed("module.", s),
    "a compiled DataParallel": lambda s: prefixed("module._orig_mod.", s),
    "DataParallel compiled": lambda s: {"epoch": 3, "model_state": prefixed("_orig_mod.module.", s)},
    "compiled stages": lambda s: {key.replace("layer3.", "layer3._orig_mod."): value for key, value in s.items()},
    "mmdetection": lambda s: {
        "meta": {"epoch": 12}, "state_dict": prefixed("backbone.", s) | {"bbox_head.fc_cls.weight": torch.ones(2)},
    },
    "a detector of torchvision's": lambda s: prefixed("backbone.body.", s) | {"rpn.head.conv.weight": torch.ones(2)},
    "MoCo": lambda s: {
        "arch": "resnet18",
        "state_dict": prefixed("module.encoder_k.", other()) | prefixed("module.encoder_q.", s),
    },
    "MoCo with an MLP for its last layer": lambda s: prefixed("module.encoder_q.", s) | {
        f"module.encoder_q.fc.{layer}.weight": torch.ones(4, 4) for layer in (0, 2)
    },
    "DINO": lambda s: {
        "student": prefixed("module.backbone.", other()), "teacher": prefixed("backbone.", s), "epoch": 1,
        "args": Namespace(arch="resnet18"),
    },
    "a copy inside": lambda s: s | prefixed("momentum_encoder.", other()),
    "two names in one": lambda s: {"net": {"state_dict": prefixed("model.model.encoder.", s)}},
    "a name that nobody knows": lambda s: {"best_so_far": prefixed("trunk.features.", s)},
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_file_layout_gives_the_saved_logits(tmp_path, form):
    """Prefixes and wrappers of other libraries are recognized; the output is equal bit for bit."""
    theirs, images = small(0), torch.randn(2, 3, 32, 32)
    ours = reloaded(FORMS[form](theirs.state_dict()), tmp_path)
    if "MLP" in form:
        ours.fc = theirs.fc
    assert torch.equal(ours(images), theirs(images))


def test_the_chosen_network_of_a_file_is_named(tmp_path, caplog):
    """MoCo holds a query and a key encoder, DINO a student and a teacher."""
    with caplog.at_level(logging.INFO):
        reloaded(FORMS["MoCo"](small(0).state_dict()), tmp_path)
        reloaded(FORMS["DINO"](small(0).state_dict()), tmp_path)
    assert "networks ('module.encoder_q.', 'module.encoder_k.') the first is loaded" in caplog.text
    assert "taken from 'teacher'" in caplog.text


def test_unused_parts_of_a_detector_file_are_named(tmp_path, caplog):
    """Loading a torchvision detector into a backbone reports fpn.* and roi_heads.* as not used."""
    state = prefixed("backbone.body.", small(0).state_dict())
    state |= {"backbone.fpn.inner_blocks.0.0.weight": torch.ones(2), "roi_heads.box_head.fc6.bias": torch.ones(2)}
    with caplog.at_level(logging.INFO):
        reloaded(state, tmp_path)
    assert "not used: fpn.*, roi_heads.*" in caplog.text


def test_a_torchvision_detector_initializes_a_backbone(tmp_path):
    """Its frozen norms have no step counter; all other tensors are equal."""
    theirs = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    torch.save({"model": theirs.state_dict()}, tmp_path / "w.pth")
    ours = torchvision.models.resnet50()
    load(ours, "resnet50", str(tmp_path / "w.pth"))
    body = theirs.backbone.body.state_dict()
    assert len(body) > 250
    assert all(torch.equal(ours.state_dict()[key], value) for key, value in body.items())


@pytest.mark.parametrize("name", ["conv_offset", "conv_offset_mask", "offset_conv"])
@pytest.mark.parametrize(("modulated", "groups"), [(False, 1), (True, 1), (False, 4), (True, 2)])
def test_mmcv_deformable_layers_give_the_same_output(tmp_path, caplog, name, modulated, groups):
    """Offset branches are renamed, modulated weights halved; a branch named as ours loads unchanged."""
    theirs, images = small(0), torch.randn(2, 3, 64, 64)
    for place in ("layer3", "layer4"):
        block = getattr(theirs, place)[0]
        block.conv2 = Packed(block.conv2, modulated, groups, name)
    state = prefixed("backbone.", theirs.requires_grad_(False).state_dict())

    def deformed(model):
        return deform(model, ["layer3.0.conv2", "layer4.0.conv2"], groups, modulated)

    with caplog.at_level(logging.INFO):
        ours = reloaded({"state_dict": state}, tmp_path, surgery=deformed)
    if name == "offset_conv":  # ours: a layer of that name is loaded as it is
        assert torch.equal(ours.layer4[0].conv2.weight, theirs.layer4[0].conv2.weight)
        assert "halved" not in caplog.text
        return
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-4)
    assert f"renamed layer3.0.conv2.{name} to layer3.0.conv2.offset_conv" in caplog.text
    assert ("halved layer3.0.conv2.weight, layer4.0.conv2.weight" in caplog.text) == modulated


def detectron2s(state):
    """A state dict under the names that detectron2 has for a ResNet's layers."""
    named = {}
    for key, value in state.items():
        parts = key.split(".")
        layer, part = parts[-2:]
        if key.startswith("fc."):
            named[f"linear.{part}"] = value
        elif "downsample" in key:
            named[f"res{int(key[5]) + 1}.{parts[1]}.shortcut{'.norm' * int(layer)}.{part}"] = value
        elif part != "num_batches_tracked":
            place = f"res{int(key[5]) + 1}.{parts[1]}" if key.startswith("layer") else "stem"
            named[f"{place}.{layer.replace('bn', 'conv')}{'.norm' * layer.startswith('bn')}.{part}"] = value
    return named


@pytest.mark.parametrize("modulated", [None, False, True])
@pytest.mark.parametrize("prefix", ["", "backbone.", "model.backbone.bottom_up."])
def test_detectron2_resnets_give_the_same_logits(tmp_path, caplog, modulated, prefix):
    """With each prefix, plain and deformable; a line says that detectron2 takes blue first."""
    theirs, images = small(0, Detectron2Block), torch.randn(2, 3, 64, 64)
    state = detectron2s(theirs.state_dict())
    assert {"stem.conv1.norm.running_var", "res5.0.shortcut.norm.bias", "res5.0.conv3.weight"} <= set(state)
    if modulated is not None:
        branch = theirs.layer4[0].use(modulated).conv2_offset
        state |= prefixed("res5.0.conv2_offset.", branch.state_dict())
    surgery = (lambda m: m) if modulated is None else (lambda m: deform(m, ["layer4.0.conv2"], 1, modulated))
    with torch.no_grad():
        ours = reloaded({"model": prefixed(prefix, state)}, tmp_path, Bottleneck, surgery)
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-4)
    assert "blue first" in caplog.text


def test_a_modulated_layer_made_plain_halves_its_weight(tmp_path, caplog):
    """Masks begin at one half in mmcv, so the plain layer takes half the weight."""
    theirs = small(0)
    theirs.layer4[0].conv2 = Packed(theirs.layer4[0].conv2, True)
    with caplog.at_level(logging.INFO):
        ours = reloaded(theirs.state_dict(), tmp_path)
    assert torch.equal(ours.layer4[0].conv2.weight, theirs.layer4[0].conv2.weight / 2)
    assert "not used: layer4.0.conv2.offset_conv.weight" in caplog.text


def test_detectron2_pickles_are_refused_with_the_remedy(tmp_path):
    """The pickle is not opened; the message shows how to convert it with torch.save."""

    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("the pickle ran code",))

    path = tmp_path / "R-50.pkl"
    for content in ({"model": {"stem.conv1.weight": np.ones(2)}}, Trap()):
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(ConfigError, match=r"\A[^\n]*R-50\.pkl' is a pickle[^\n]*torch\.save[^\n]*\Z"):
            load(small(0), "resnet18", str(path))


def test_a_file_without_a_network_is_refused_in_one_line(tmp_path):
    """A dictionary that contains itself, optimizer states and lists give one line."""
    itself = {}
    itself |= {f"key {number}": itself for number in range(99)}
    for content in (itself, {"optimizer": {"state": {}}}, {"model": {"a": 1}}, [1], {}, {"x.weight": torch.ones(1)}):
        torch.save(content, tmp_path / "w.pth")
        with pytest.raises(ConfigError, match=r"\A[^\n]*(is not a state dict|does not fit)[^\n]*\Z"):
            load(small(0), "resnet18", str(tmp_path / "w.pth"))
