"""What other programs get of a run: every format gives the network's own output, and a file is whole or not there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from command_line import dcnlab, environment
from locations import ROOT
from onnx.reference import ReferenceEvaluator
from processes import GUARD
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from dcnlab.config.load import load_experiment, load_run, to_yaml
from dcnlab.io.errors import ConfigError
from dcnlab.models.backbone import backbone
from dcnlab.models.resnet import classifier
from dcnlab.nn import ActiveConv2d, DeformConv2d, MSDeformAttn
from dcnlab.ops import reference
from dcnlab.training.build_data import data_module
from dcnlab.training.build_network import task_module
from dcnlab.training.export import OPSET, export, translation_table

CLASSIFIER = {
    "data": {"train_length": 16, "test_length": 16, "batch_size": 16, "image_size": 32},
    "model": {"backbone": {"name": "resnet10_slim"}, "deform_layers": 2},
}
DEEPLAB = {
    "task": "segmentation",
    "data": {"train_length": 16, "test_length": 16, "image_size": 32},
    "model": {
        "name": "deeplab",
        "head_channels": 16,
        "backbone": {"name": "resnet10_slim", "freeze_norm": True},
        "deform_layers": 2,
        "modulated": True,
        "offset_groups": 2,
    },
}
DETECTOR = {
    "task": "detection",
    "data": {"train_length": 16, "test_length": 16, "image_size": 64},
    "model": {
        "name": "faster_rcnn",
        "backbone": {"name": "resnet10_slim"},
        "head_channels": 16,
        "fc_channels": 16,
        "deform_pooling": True,
        "rpn": {"hidden_channels": 16},
    },
}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Makes a run folder without training: a network whose offsets are far from zero, in evaluation, and the folder."""
    monkeypatch.chdir(tmp_path)

    def make(tree, *overrides):
        Path("e.yaml").write_text(json.dumps(tree))
        config = load_experiment("e.yaml", ["name=tried", "trainer.max_steps=1", *overrides])
        torch.manual_seed(0)
        task = task_module(config, data_module(config).classes).eval()
        for name, value in task.named_parameters():
            if "offset_conv" in name or name.endswith(".offset") or name.endswith("localisation.7.weight"):
                nn.init.normal_(value, std=0.1)
        folder = Path("runs/tried/one")
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(to_yaml(config))
        torch.save({"global_step": 1, "state_dict": task.state_dict()}, folder / "checkpoints/last.ckpt")
        return task.model.requires_grad_(False), folder

    return make


def by_onnxruntime(model, images):
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: images.numpy()})[0]


@pytest.mark.parametrize(
    ("modulated", "options"),
    [
        (False, {}),
        (False, {"groups": 2, "offset_groups": 4, "stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)}),
        (True, {"bias": False}),
        (True, {"kernel_size": (3, 2), "groups": 4, "offset_groups": 2, "stride": 2, "padding": (2, 1)}),
    ],
    ids=["v1", "v1-grouped", "modulated", "modulated-grouped"],
)
def test_operator_equals_deform_conv_of_two_onnx_runtimes(modulated, options):
    """onnxruntime and ONNX's reference evaluator give our output, with groups, strides and masks."""
    torch.manual_seed(0)
    layer = DeformConv2d(4, 8, **{"kernel_size": 3, **options}, modulated=modulated).eval().requires_grad_(False)
    nn.init.normal_(layer.offset_conv.weight, std=0.5)
    image = torch.randn(2, 4, 7, 6)
    program = torch.onnx.export(
        layer,
        (image,),
        dynamo=True,
        opset_version=OPSET,
        custom_translation_table=translation_table(),
        verbose=False,
    )
    model = program.model_proto
    onnx.checker.check_model(model)
    assert [node.domain for node in model.graph.node if node.op_type == "DeformConv"] == [""]
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": 19}
    want = layer(image).numpy()
    assert np.abs(layer.offsets(image)[0].numpy()).max() > 2  # points leave the map and lie between pixels
    assert np.abs(by_onnxruntime(model.SerializeToString(), image) - want).max() < 2e-5
    reference = ReferenceEvaluator(model).run(None, {model.graph.input[0].name: image.numpy()})[0]
    assert np.abs(reference - want).max() < 2e-5


def exported(layer, dtype, opset, path):
    layer, image = layer.eval().requires_grad_(False).to(dtype), torch.randn(2, 4, 16, 16).to(dtype)
    torch.onnx.export(
        layer,
        (image,),
        path,
        dynamo=True,
        opset_version=opset,
        custom_translation_table=translation_table(),
        verbose=False,
    )
    return layer, image


@pytest.mark.parametrize("opset", [19, 20, 22, 23])
@pytest.mark.parametrize("options", [{}, {"modulated": True, "groups": 2, "offset_groups": 2, "bias": False}], ids=str)
def test_a_float16_network_gives_its_output_in_onnxruntime(tmp_path, opset, options):
    """In opsets 19 to 23 the error is about that of float16 itself, measured from float64."""
    torch.manual_seed(0)
    layer = DeformConv2d(4, 8, 3, padding=1, **options)
    nn.init.normal_(layer.offset_conv.weight, std=0.3)
    nn.init.constant_(layer.offset_conv.bias, 2.3)
    layer, image = exported(layer, torch.float16, opset, tmp_path / "x.onnx")
    onnx.checker.check_model(tmp_path / "x.onnx")
    found, want = by_onnxruntime(tmp_path / "x.onnx", image), layer(image).numpy()
    assert found.dtype == np.float16
    # Offsets of the two offset convolutions differ by float16's rounding, 2^-8 of a pixel or less.
    assert np.abs(found.astype(float) - want).max() < 2e-2 * np.abs(want).max()
    from_double = layer.double()(image.double()).numpy()
    assert np.abs(found - from_double).max() < 2 * np.abs(want - from_double).max() + 1e-3


def test_float64_active_conv_keeps_its_digits_in_onnxruntime(tmp_path):
    """The exported offsets stay float64: onnxruntime differs by less than 1e-12."""
    layer = ActiveConv2d(4, 8, 3, padding=1)
    nn.init.normal_(layer.offset)
    layer, image = exported(layer, torch.float64, 19, tmp_path / "x.onnx")
    assert np.abs(by_onnxruntime(tmp_path / "x.onnx", image) - layer(image).numpy()).max() < 1e-12


@pytest.mark.parametrize(
    ("dtype", "opset", "line"),
    [
        (torch.float32, 18, "opset_version is 18, which has no DeformConv; nearest: 19"),
        (torch.float16, 17, "opset_version is 18, which has no DeformConv"),  # torch itself goes no lower
        (torch.bfloat16, 19, "the network is bfloat16, for which ONNX runtimes have no convolutions"),
        (torch.bfloat16, 23, "the network is bfloat16"),
    ],
    ids=str,
)
def test_export_refuses_opsets_and_dtypes_without_runtime(tmp_path, dtype, opset, line):
    """Opset 18 and bfloat16 raise a ConfigError of one line before any file is written."""
    with pytest.raises(torch.onnx.errors.OnnxExporterError, match=line) as caught:
        exported(DeformConv2d(4, 8, 3, padding=1), dtype, opset, tmp_path / "x.onnx")
    causes = [caught.value]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    assert isinstance(causes[-1], ConfigError)
    assert "\n" not in str(causes[-1])
    assert list(tmp_path.iterdir()) == []


class Attending(nn.Module):
    """Multi-scale deformable attention over two levels."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.attention = MSDeformAttn(8, 2, 2, 2)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.3)

    def forward(self, query, references, value):
        return self.attention(query, references, value, [(4, 5), (2, 3)], [0, 20])


def test_attention_exports_by_the_operators_of_the_reference(tmp_path):
    """The table refuses it in one line, which says how; so exported, onnxruntime gives its output for any batch."""
    layer, operator = Attending().eval(), torch.ops.dcnlab.ms_deform_attn.default
    small, large = (
        (torch.randn(batch, 6, 8), torch.rand(batch, 6, 2, 2), torch.randn(batch, 26, 8)) for batch in (2, 3)
    )
    options = {"dynamo": True, "opset_version": OPSET, "verbose": False}
    with pytest.raises(torch.onnx.errors.OnnxExporterError, match="ms_deform_attn is not an ONNX operator; give"):
        torch.onnx.export(layer, small, custom_translation_table=translation_table(), **options)
    program = torch.export.export(layer, small, dynamic_shapes=({0: torch.export.Dim("batch")},) * 3)
    program = program.run_decompositions({operator: reference.ms_deform_attn})
    torch.onnx.export(program, small, tmp_path / "x.onnx", **options)
    session = onnxruntime.InferenceSession(tmp_path / "x.onnx")
    names = [entry.name for entry in session.get_inputs()]
    (found,) = session.run(None, {name: tensor.numpy() for name, tensor in zip(names, large, strict=True)})
    torch.testing.assert_close(torch.from_numpy(found), layer(*large).detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("tree", "overrides", "size"),
    [
        (CLASSIFIER, ["model.modulated=true"], None),
        (CLASSIFIER, ["model.spatial_transformer=true"], (32, 40)),
        (DEEPLAB, [], (36, 44)),
    ],
    ids=["classifier", "spatial-transformer", "deeplab"],
)
def test_exported_networks_accept_any_number_of_images(run, tree, overrides, size):
    """onnxruntime gives the network's output for 1 and 3 images from the same file."""
    network, folder = run(tree, *overrides)
    exported = export(folder, "onnx", size=size)
    assert exported.path == folder / "export.onnx"
    assert exported.notes == []
    model = onnx.load(exported.path)
    onnx.checker.check_model(model)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert (metadata["name"], metadata["task"]) == ("tried", tree.get("task", "classification"))
    assert "DeformConv" in {node.op_type for node in model.graph.node}
    for count in (1, 3):
        images = torch.randn(count, 3, *(size or (32, 32)))
        want = network(images).numpy()
        assert np.abs(by_onnxruntime(str(exported.path), images) - want).max() < 1e-4 * np.abs(want).max()


@pytest.mark.parametrize("kind", ["active", "added"])
def test_other_kinds_export_for_any_number_of_images(run, kind):
    """Exporting must not fix the batch size, which an active layer's offset parameter lacks."""
    network, folder = run(CLASSIFIER, f"model.deform_kind={kind}")
    exported = export(folder, "onnx")
    for count in (1, 3):
        images = torch.randn(count, 3, 32, 32)
        want = network(images).numpy()
        assert np.abs(by_onnxruntime(str(exported.path), images) - want).max() < 1e-4 * np.abs(want).max()


LOADER = """
import sys, torch, dcnlab.ops
extra = {"task": ""}
network = torch.export.load(sys.argv[1], extra_files=extra).module()
images, want = torch.load(sys.argv[2])
assert extra["task"] == "segmentation", extra
assert torch.equal(network(images), want), (network(images) - want).abs().max()
assert not any(name in sys.modules for name in ("dcnlab.nn", "pytorch_lightning"))
"""


def test_a_pt2_file_needs_only_our_operators(run):
    """A fresh process loads export.pt2 with dcnlab.ops alone and gets equal output."""
    network, folder = run(DEEPLAB)
    exported = export(folder, "torch-export")
    assert exported.path == folder / "export.pt2"
    images = torch.randn(3, 3, 32, 32)
    torch.save((images, network(images)), "want.pt")
    command = [sys.executable, "-P", "-c", LOADER, str(exported.path), "want.pt"]
    done = subprocess.run(command, env=environment(PYTHONPATH=str(ROOT)), capture_output=True, text=True, timeout=GUARD)
    assert done.returncode == 0, done.stderr


def test_exported_safetensors_hold_weights_and_config(run):
    """The tensors equal the network's, the metadata rebuild the config, and the file serves as weights."""
    network, folder = run(CLASSIFIER)
    done = dcnlab("export", folder, "--format", "safetensors")
    assert (done.returncode, done.stderr) == (0, "")
    path = done.stdout.strip()
    assert path == str(folder / "export.safetensors")
    state = load_file(path)
    assert state.keys() == network.state_dict().keys()
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in state.items())
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert (metadata["name"], metadata["task"]) == ("tried", "classification")
    assert json.loads(metadata["classes"]) == list("0123456789")
    Path("again").mkdir()
    Path("again/config.yaml").write_text(metadata["config"])
    assert load_run(Path("again")) == load_run(folder)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(classifier("resnet10_slim", 10, path, deform_layers=2).eval()(images), network(images))


def test_deeplab_safetensors_load_as_backbone_weights(run):
    """The exported file of a whole DeepLab gives the same res5 features in a bare backbone."""
    network, folder = run(DEEPLAB)
    path = str(export(folder, "safetensors").path)
    features = backbone("resnet10_slim", path, deform_layers=2, modulated=True, offset_groups=2).eval()
    images = torch.randn(1, 3, 32, 32)
    assert torch.allclose(features(images)["res5"], network.backbone(images)["res5"], atol=1e-5)


def complaint(*arguments, **keywords):
    with pytest.raises(ConfigError, match=r"\A[^\n]+\Z") as caught:
        export(*arguments, **keywords)
    return str(caught.value)


def test_detectors_export_only_safetensors(run):
    """onnx and torch-export are refused with the format that works, and leave no file."""
    network, folder = run(DETECTOR)
    for form in ("onnx", "torch-export"):
        assert "--format safetensors" in complaint(folder, form)
    assert [path.name for path in folder.iterdir() if path.name.startswith("export")] == []
    assert load_file(export(folder, "safetensors").path).keys() == network.state_dict().keys()


def test_export_without_the_data_notes_missing_classes(run):
    """A run whose data.root no longer exists still exports, with a note that classes are not named."""
    network, folder = run(CLASSIFIER)
    text = (folder / "config.yaml").read_text()
    text = text.replace("name: digits", "name: imagefolder").replace("root: null", "root: gone")
    (folder / "config.yaml").write_text(text)
    exported = export(folder, "onnx")
    assert "does not name the classes" in exported.notes[0]
    image = torch.randn(1, 3, 32, 32)
    assert np.allclose(by_onnxruntime(str(exported.path), image), network(image).numpy(), atol=1e-5)


def test_wrong_formats_and_paths_are_one_line(run):
    """A misspelt format, a missing folder, a folder as file and a missing checkpoint."""
    _, folder = run(CLASSIFIER)
    done = dcnlab("export", folder, "--format", "onx")
    assert (done.returncode, done.stdout) == (2, "")
    assert "nearest: onnx" in done.stderr
    assert done.stderr.count("\n") == 1
    assert "there is no folder 'nowhere'" in complaint(folder, "safetensors", Path("nowhere/a.safetensors"))
    assert "a folder; name a file in it" in complaint(folder, "safetensors", folder)
    (folder / "checkpoints/last.ckpt").unlink()
    assert "has no checkpoints/last.ckpt" in complaint(folder, "safetensors")


def test_a_failed_export_keeps_the_old_file(run, monkeypatch):
    """A full disk is reported, the old file stays, and no temporary file is left."""
    _, folder = run(CLASSIFIER)
    (folder / "export.safetensors").write_text("old")

    def full(_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    assert "cannot be written: No space left" in complaint(folder, "safetensors")
    assert (folder / "export.safetensors").read_text() == "old"
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoints", "config.yaml", "export.safetensors"]
