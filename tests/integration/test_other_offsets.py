"""test.offsets: finished deformable runs tested with zero, mean or other images' offsets, and their rows in tables."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from small_experiments import EXPERIMENTS

from dcnlab.ablations.tables import build_table
from dcnlab.ablations.tables import table as tables
from dcnlab.config.load import load_experiment, load_run
from dcnlab.io import torch_file
from dcnlab.io.errors import ConfigError
from dcnlab.metrics import image_records
from dcnlab.nn import DeformConv2d
from dcnlab.training import run as training
from dcnlab.training.callbacks.other_offsets import other_images
from dcnlab.training.parts import build
from dcnlab.training.run_folder import RunFolder

KINDS = ("zero", "mean", "other_image")


@pytest.fixture
def offsets_learnt(trained_tasks, tmp_path, monkeypatch):
    """Copies a task's run and gives its deformable layers an offset convolution with large weights and a bias."""
    monkeypatch.chdir(trained_tasks)

    def copied(task, weights=0.3):
        folder = RunFolder(tmp_path / "runs" / task / "run")
        shutil.copytree(f"runs/{task}/run", folder.path)
        content = torch_file.load(folder.checkpoint)
        generator = torch.Generator().manual_seed(0)
        for name, value in content["state_dict"].items():
            if "offset_conv" in name:
                spread = weights if name.endswith("weight") else 1.0
                value.copy_(spread * torch.randn(value.shape, generator=generator))
            elif task == "segmentation" and value.dim() == 4 and "backbone" not in name:
                value.copy_(torch.randn(value.shape, generator=generator))  # else all pixels are of one class
        torch.save(content, folder.checkpoint)
        # The scores of the changed weights are the run's own.
        results = folder.read_results()
        results["metrics"] = training.evaluate(folder.path, [])
        folder.test_images.unlink()
        folder.write_results(results)
        training.evaluate(folder.path, [])
        return folder

    return copied


def kept(folder, kind):
    """What a test left: its metrics and the record of its images."""
    test = RunFolder(folder.test_under(kind))
    return json.loads(test.results.read_text())["metrics"], image_records.read(test.test_images)


@pytest.mark.parametrize("task", EXPERIMENTS)
def test_each_task_keeps_its_scores_under_other_offsets(offsets_learnt, task):
    """Of every kind: the printed metrics and the record that gives them, next to an unchanged results.json."""
    folder = offsets_learnt(task)
    before = folder.results.read_bytes(), folder.test_images.read_bytes()
    for kind in KINDS:
        metrics = training.evaluate(folder.path, [f"test.offsets={kind}", "data.batch_size=2"])
        stored, record = kept(folder, kind)
        assert stored == metrics
        for name, value in metrics.items():
            assert record.scores(name, np.ones((1, len(record.images)), int))[0] == pytest.approx(value, abs=1e-5)
    assert before == (folder.results.read_bytes(), folder.test_images.read_bytes())
    records = {path.read_bytes() for path in folder.tests.rglob("test_images.npz")} | {before[1]}
    assert len(records) == 4 or task != "segmentation"  # pixels tell; two steps make a classifier of one class


def test_a_bias_alone_is_its_own_mean_and_other_image(offsets_learnt):
    """Offsets that do not depend on the image: mean and other_image give the run's own record, zero another."""
    folder = offsets_learnt("segmentation", weights=0.0)
    own = folder.test_images.read_bytes()
    for kind in KINDS:
        training.evaluate(folder.path, [f"test.offsets={kind}"])
        assert (RunFolder(folder.test_under(kind)).test_images.read_bytes() == own) == (kind != "zero")


@pytest.mark.parametrize("batch", [1, 3])
def test_logits_are_those_of_torchvision_at_the_others_offsets(offsets_learnt, batch):
    """Each test image's last layer equals torchvision's, at the offsets that the layer predicts from its donor."""
    folder = offsets_learnt("classification")
    config = load_run(folder.path, [f"data.batch_size={batch}", "test.offsets=other_image"])
    config.trainer.effective_batch = None
    parts = build(config, folder, trains=False)
    [layer] = [module for module in parts.task.modules() if isinstance(module, DeformConv2d)]
    parts.task.load_state_dict(torch_file.load(folder.checkpoint)["state_dict"])
    seen = []
    handle = layer.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    network = parts.task.model.eval()
    with torch.no_grad():
        images = torch.stack([item[0] for item in parts.data.test])
        network(images)
        inputs = seen.pop()[0]
    parts.trainer.test(parts.task, datamodule=parts.data, verbose=False)
    handle.remove()
    # Of each batch come the donors first, one by one.
    last = len(seen) - 1
    tested = torch.cat([seen[at][1] for at in range(last + 1) if at % (batch + 1) == batch or at == last])
    others = other_images(len(images), config.seed)
    with torch.no_grad():
        offset = layer.offset_conv(inputs[others])
        expected = torchvision.ops.deform_conv2d(inputs, offset, layer.weight, layer.bias, layer.stride, layer.padding)
    torch.testing.assert_close(tested, expected, rtol=1e-4, atol=1e-4)
    assert "offsets" not in vars(layer)


@pytest.mark.parametrize("images", [2, 3, 10])
def test_every_image_serves_another_one_once(images):
    """A cycle through all images, the same for one seed and another for others."""
    others = other_images(images, 5)
    assert sorted(others) == list(range(images))
    assert all(other != image for image, other in enumerate(others))
    assert others == other_images(images, 5)
    assert images < 10 or others != other_images(images, 6)


def test_networks_without_deformable_layers_are_refused(tiny):
    """One line with both keys, in fit before any file is written; so are active layers, and a split of one image."""
    for words, reason in (
        ([], "model.deform_layers is 0, model.deform_kind deformable"),
        (["model.deform_layers=1", "model.deform_kind=active"], "model.deform_layers is 1, model.deform_kind active"),
    ):
        with pytest.raises(ConfigError, match=rf"test\.offsets is zero; the network has no deformable .*: {reason}"):
            training.fit(load_experiment(tiny, [*words, "test.offsets=zero"]))
    words = ["model.deform_layers=1", "test.offsets=other_image", "data.test_length=1"]
    with pytest.raises(ConfigError, match=r"test\.offsets is other_image; data\.test has 1 images, and it takes two"):
        training.fit(load_experiment(tiny, words))
    with pytest.raises(ConfigError, match=r"test\.offsets is 'zeros'.*zero"):
        load_experiment(tiny, ["test.offsets=zeros"])
    with pytest.raises(ConfigError, match=r"test\.flip is true; test\.offsets mean takes false, each image as it is"):
        load_experiment(tiny, ["test.offsets=mean", "test.flip=true"])
    assert not Path("runs").exists()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_an_offset_rate_of_zero_keeps_offsets_at_zero(tiny, optimizer):
    """The noise floor: after two steps the offset convolution is all zeros, and the table names the row."""
    words = ["model.deform_layers=1", "optim.offset_lr_scale=0", f"optim.name={optimizer}", "logger.wandb=false"]
    config = load_experiment(tiny, words)
    config.sweep = {"optim.offset_lr_scale": 0}
    folder = RunFolder(training.fit(config))
    state = torch_file.load(folder.checkpoint)["state_dict"]
    branch = [value for name, value in state.items() if "offset_conv" in name]
    assert len(branch) == 2
    assert not any(value.any() for value in branch)
    text = tables.render(build_table.assemble("tiny", [folder.path.parents[1]]), "markdown")
    assert "| 0 (offsets stay zero) |" in text


def test_other_changes_of_the_test_keep_nothing(offsets_learnt, caplog):
    """Scores of another split are not paired with the run's, and a note says so."""
    folder = offsets_learnt("segmentation")
    training.evaluate(folder.path, ["test.offsets=zero", "data.test=pair"])
    assert not folder.tests.exists()
    assert "the scores under test.offsets zero are not kept: data.test is not the run's" in caplog.text


def test_a_longer_training_removes_other_tests(offsets_learnt):
    """Their scores were of earlier weights."""
    folder = offsets_learnt("segmentation")
    training.evaluate(folder.path, ["test.offsets=zero"])
    assert folder.tests.is_dir()
    folder.write_results(folder.read_results())
    assert not folder.tests.exists()


def test_tables_show_other_offsets_as_rows(offsets_learnt):
    """Rows below the run's, with its parameters and their own scores, and a note with the paired difference."""
    folder = offsets_learnt("segmentation")
    for kind in KINDS:
        training.evaluate(folder.path, [f"test.offsets={kind}"])
    found = build_table.assemble("segmentation", [folder.path.parents[1]])
    assert [row["test.offsets"] for row in found.rows] == ["predicted", *KINDS]
    own = folder.read_results()["metrics"]["miou"]
    for row in found.rows:
        kind = row["test.offsets"]
        expected = own if kind == "predicted" else kept(folder, kind)[0]["miou"]
        assert row["miou"] == pytest.approx(expected)
        if kind != "predicted":
            assert row["miou_difference"] == pytest.approx(expected - own)
            assert any(note.startswith(f"offsets {kind}: miou {expected - own:+.2f}") for note in found.notes)
    text = tables.render(found, "markdown")
    assert text.count("| other_image ") == 1
    (folder.test_under("mean") / "results.json").write_text("{}")
    found = build_table.assemble("segmentation", [folder.path.parents[1]])
    assert [row["test.offsets"] for row in found.rows] == ["predicted", "zero", "other_image"]
    assert any("not what dcnlab evaluate writes" in note for note in found.notes)
