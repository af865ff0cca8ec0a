"""Weights in the forms of other programs: each gives the network that was saved."""

import logging
import pickle
import sys
import types
from argparse import Namespace

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.detection import fasterrcnn_resnet50_fpn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from dcnlab.io.errors import ConfigError
from dcnlab.models.convert import convert
from dcnlab.models.library_weights import load_library
from dcnlab.models.trunk import trunk
from dcnlab.models.weights import load
from dcnlab.models.weights_file import read, renamed
from dcnlab.nn import DeformConv2d
from dcnlab.surgery import deform


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("the pickle ran code",))


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
    "an average alone": lambda s: {"ema": prefixed("module.", s), "epoch": 3},
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
    """Loading a torchvision detector into a backbone counts fpn and roi_heads as not used."""
    state = prefixed("backbone.body.", small(0).state_dict())
    state |= {"backbone.fpn.inner_blocks.0.0.weight": torch.ones(2), "roi_heads.box_head.fc6.bias": torch.ones(2)}
    with caplog.at_level(logging.INFO):
        reloaded(state, tmp_path)
    assert "not used: backbone.fpn.* (1), roi_heads.* (1)" in caplog.text


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


BRANCH = {
    "mmcv": "layer4.0.conv2.conv_offset",
    "mmdetection before 1.0": "layer4.0.conv2_offset",
    "detectron2": "res5.0.conv2_offset",
    "the authors": "res5a_branch2b_offset",
}


def layout(project, state, branch):
    """A file of a project: a ResNet of bottlenecks whose layer4.0.conv2 has an offset branch."""
    name = BRANCH[project]
    if project == "the authors":
        named = {"arg:res2a_branch2a_weight": state["layer1.0.conv1.weight"]}
        named["arg:res5a_branch2b_weight"] = state["layer4.0.conv2.weight"]
        return named | {f"arg:{name}_{part}": value for part, value in branch.items()}
    if project == "detectron2":
        state = prefixed("backbone.bottom_up.", detectron2s(state) | prefixed(f"{name}.", branch))
        return {"model": state | {"proposal_generator.rpn_head.conv.bias": torch.ones(2)}, "iteration": 9}
    state = prefixed("module.backbone.", state | prefixed(f"{name}.", branch))
    return {"meta": {"CLASSES": ["a"]}, "state_dict": state | {"module.neck.fpn_convs.0.conv.bias": torch.ones(2)}}


def of_kind(project):
    return {"detectron2": "detectron2", "the authors": "mxnet"}.get(project, "mmdet")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("project", "modulated", "groups"),
    [
        *(
            (project, modulated, 2 - modulated)
            for project in BRANCH
            for modulated in (False, True)
            if not (modulated and project == "the authors")
        ),
        ("mmcv", False, 1),
        ("mmdetection before 1.0", True, 4),
    ],
)
def test_a_converted_layer_equals_torchvisions_operator(tmp_path, project, modulated, groups, dtype):
    """A deformable layer of each project gives what torchvision computes from its numbers, in its order of channels."""
    generator = torch.Generator().manual_seed(0)
    state = small(0, Bottleneck).state_dict()
    weight, x = state["layer4.0.conv2.weight"], torch.randn(2, 64, 9, 9, generator=generator).to(dtype)
    # y moves by about 1.5 pixels down and x by 0.5 to the left: channels in another order give another output.
    branch = {
        "weight": torch.randn((3 if modulated else 2) * 9 * groups, 64, 3, 3, generator=generator) * 0.01,
        "bias": torch.tensor([1.5, -0.5]).repeat(9 * groups),
    }
    if modulated:
        branch["bias"] = torch.cat((branch["bias"], torch.linspace(-2, 2, 9 * groups)))
    state, branch = ({k: v.to(dtype) if v.is_floating_point() else v for k, v in d.items()} for d in (state, branch))
    torch.save(layout(project, state, branch), tmp_path / "theirs.pth")
    path = tmp_path / "theirs.pth"
    if project != "the authors":  # whose file here has two layers alone, too few to convert
        path = tmp_path / "ours.pt"
        convert(tmp_path / "theirs.pth", path, of_kind(project))
    layer = DeformConv2d(64, 64, 3, padding=1, bias=False, offset_groups=groups, modulated=modulated)
    tensors = renamed(path, read(path))[0]
    layer.load_state_dict(
        {key.removeprefix("layer4.0.conv2."): value for key, value in tensors.items() if "layer4.0.conv2." in key}
    )
    predicted = nn.functional.conv2d(x.float(), branch["weight"].float(), branch["bias"].float(), padding=1)
    offset, mask = predicted[:, : 18 * groups], predicted[:, 18 * groups :].sigmoid() if modulated else None
    want = torchvision.ops.deform_conv2d(x.float(), offset, weight.to(dtype).float(), None, 1, 1, 1, mask)
    with torch.no_grad():
        ours = layer.to(dtype)(x).float()
    tolerance = 1e-4 if dtype is torch.float32 else 0.03
    torch.testing.assert_close(ours, want, rtol=tolerance, atol=tolerance * want.abs().max().item())
    assert (
        want - torchvision.ops.deform_conv2d(x.float(), offset.flip(1), weight.float(), None, 1, 1, 1, mask)
    ).abs().max() > 0.1


def test_logs_of_mmengine_do_not_keep_a_file_from_loading(tmp_path):
    """Objects of classes that are not installed are left out; the state dict next to them loads."""
    theirs, images = small(0), torch.randn(2, 3, 32, 32)
    module = types.ModuleType("mmengine_of_test")
    module.HistoryBuffer = type("HistoryBuffer", (), {"__module__": "mmengine_of_test", "mean": small})
    sys.modules["mmengine_of_test"] = module
    try:
        buffer = module.HistoryBuffer()
        buffer.log, buffer.methods = np.ones(3), {"mean": module.HistoryBuffer.mean, "type": getattr}
        torch.save({"message_hub": {"loss": buffer}, "state_dict": theirs.state_dict()}, tmp_path / "w.pth")
    finally:
        del sys.modules["mmengine_of_test"]
    ours = small(1)
    load(ours, "resnet18", str(tmp_path / "w.pth"))
    assert torch.equal(ours(images), theirs(images))


def test_a_foreign_object_of_a_file_runs_no_code(tmp_path):
    """What its class or its pickle would call is not called, and where a tensor should be it is refused."""

    class Trap:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",))

    torch.save({"state_dict": small(0).state_dict(), "trap": Trap()}, tmp_path / "w.pth")
    load(small(1), "resnet18", str(tmp_path / "w.pth"))
    torch.save({"state_dict": small(0).state_dict() | {"fc.bias": Trap()}}, tmp_path / "w.pth")
    with pytest.raises(ConfigError, match=r"\A[^\n]*is not a state dict[^\n]*\Z"):
        load(small(1), "resnet18", str(tmp_path / "w.pth"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("modulated", "groups", "hint"),
    [
        (True, 1, "model.modulated=true model.offset_groups=1"),
        (False, 4, "model.modulated=false model.offset_groups=4"),
    ],
)
def test_offset_layers_that_do_not_fit_name_the_settings(tmp_path, modulated, groups, hint):
    """A file with modulated layers or more groups is refused before anything is loaded, with the keys that fit."""
    theirs, ours = small(0), deform(small(1), ["layer4.0.conv2"])
    theirs.layer4[0].conv2 = Packed(theirs.layer4[0].conv2, modulated, groups)
    torch.save({"state_dict": prefixed("backbone.", theirs.state_dict())}, tmp_path / "w.pth")
    before = {key: value.clone() for key, value in ours.state_dict().items()}
    with pytest.raises(ConfigError, match=rf"\A[^\n]*does not fit resnet18[^\n]*; {hint} fit its offset layers\Z"):
        load(ours, "resnet18", str(tmp_path / "w.pth"))
    assert all(torch.equal(before[key], value) for key, value in ours.state_dict().items())


def test_loaded_tensors_are_counted_by_part(tmp_path, caplog):
    """The line counts what went into each stage; a warning names the layers that are deformable in the file alone."""
    theirs = small(0)
    for place in ("layer3", "layer4"):
        getattr(theirs, place)[0].conv2 = Packed(getattr(theirs, place)[0].conv2, False)
    with caplog.at_level(logging.INFO):
        reloaded(theirs.state_dict(), tmp_path, surgery=lambda model: deform(model, ["layer4.0.conv2"]))
    # A norm has 5 tensors. layer2 to layer4 have 3 convolutions with norms, layer1 has 2, and fc has 2 tensors.
    assert "76 tensors loaded (conv1 1, bn1 5, layer1 12, layer2 18, layer3 18, layer4 18, offset layers 2, fc 2)" in (
        caplog.text
    )
    assert "1 layers are deformable in the file and plain here: layer3.0.conv2" in caplog.text


@pytest.mark.parametrize("wrapped", [lambda s: {"model": s}, lambda s: {"state_dict": prefixed("module.", s)}])
def test_mmcv_layers_of_a_library_network_load(tmp_path, wrapped):
    """A MobileNet of torchvision with mmcv's deformable layer loads from wrappers, and gives its output."""
    name = "mobilenet_v2"
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(name, num_classes=5).eval().requires_grad_(False)
    kernel, block = nn.Conv2d(3, 32, 3, 2, 1, bias=False), theirs.features[0]
    block[0] = Packed(kernel, True)
    torch.save(wrapped(theirs.state_dict()), tmp_path / "w.pth")
    ours = deform(torchvision.models.get_model(name, num_classes=5), ["features.0.0"], modulated=True).eval()
    load_library(ours, name, ("torchvision", name), str(tmp_path / "w.pth"))
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prefix", ["backbone.body.", "backbone."], ids=["a detector's", "DeepLab's"])
def test_a_mobilenet_of_torchvisions_networks_loads(tmp_path, caplog, prefix):
    """A backbone takes `features` from a file of a detector or of DeepLab; the file's other parts are named."""
    name = "mobilenet_v3_small"
    theirs = torchvision.models.get_model(name).features.state_dict()
    torch.save({"model": prefixed(prefix, theirs) | {"rpn.head.conv.bias": torch.ones(2)}}, tmp_path / "w.pth")
    with caplog.at_level(logging.INFO):
        ours = trunk(f"torchvision:{name}", ("torchvision", name), str(tmp_path / "w.pth")).state_dict()
    assert len(ours) > 200
    assert all(torch.equal(value, theirs[key.removeprefix("network.features.")]) for key, value in ours.items())
    assert "not used: rpn.head.conv.bias" in caplog.text


def test_convert_names_the_kind_that_a_file_is_of(tmp_path):
    """`--from` of another program ends in one line, and nothing is written."""
    state = small(0, Bottleneck).state_dict()
    branch = {"weight": torch.zeros(18, 64, 3, 3), "bias": torch.zeros(18)}
    for project, wrong in (("mmcv", "torchvision"), ("detectron2", "mmdet"), ("the authors", "torchvision")):
        torch.save(layout(project, state, branch), tmp_path / "w.pth")
        kind = "caffe or mxnet" if project == "the authors" else of_kind(project)
        with pytest.raises(ConfigError, match=rf"\A--from is '{wrong}', but [^\n]* have the names of {kind}\Z"):
            convert(tmp_path / "w.pth", tmp_path / "out.pt", wrong)
        assert not (tmp_path / "out.pt").exists()


def test_a_segmentation_network_of_torchvision_is_taken_apart(tmp_path):
    """DeepLab's backbone is written under plain names; its classifiers are counted as not used."""
    theirs = small(0, Bottleneck)
    others = ("classifier.4.weight", "classifier.4.bias", "aux_classifier.0.weight")
    state = prefixed("backbone.", theirs.state_dict()) | dict.fromkeys(others, torch.ones(2))
    torch.save({"model": state}, tmp_path / "w.pth")
    notes = convert(tmp_path / "w.pth", tmp_path / "ours.safetensors", "torchvision")
    assert "not used: classifier.* (2), aux_classifier.* (1)" in notes[0]
    ours, images = small(1, Bottleneck), torch.randn(2, 3, 64, 64)
    load(ours, "resnet50", str(tmp_path / "ours.safetensors"))
    assert torch.equal(ours(images), theirs(images))
