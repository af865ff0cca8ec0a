"""A finished classification run is the backbone of the other tasks, and what was not taken over is said by name."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import complaints, dcnlab
from PIL import Image

from dcnlab.config.load import load_experiment
from dcnlab.training.build_network import task_module
from dcnlab.training.callbacks import cost
from dcnlab.training.run import fit, resume

SMALL = {
    "data": {"train_length": 16, "test_length": 8, "batch_size": 8, "image_size": 64},
    "model": {"backbone": {"name": "resnet10_slim"}, "deform_layers": 1},
    "trainer": {"max_steps": 1, "accelerator": "cpu", "threads": 1},
    "logger": {"wandb": False},
}
HEADS = {
    "segmentation": {"name": "deeplab", "head_channels": 16},
    "detection": {
        "name": "rfcn",
        "head_channels": 16,
        "rois": 8,
        "rpn": {"scales": [2], "hidden_channels": 16, "proposals": 8, "border": None},
    },
}


def write(task, **model):
    Path(f"{task}.yaml").write_text(json.dumps(SMALL | {"task": task, "model": SMALL["model"] | model}))
    return f"{task}.yaml"


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """The last checkpoint of a classification run with a spatial transformer in front."""
    monkeypatch.chdir(tmp_path)
    path = write("classification", spatial_transformer=True)
    return fit(load_experiment(path, ["id=one"])) / "checkpoints" / "last.ckpt"


@pytest.mark.parametrize("task", ["segmentation", "detection"])
def test_a_classifier_initializes_other_tasks_by_name(checkpoint, task):
    """Backbone tensors are loaded bit for bit; one line names those not used and those that stay new."""
    path = write(task, **HEADS[task])
    arguments = [f"model.backbone.weights={checkpoint}", "model.deform_layers=2"]
    done = dcnlab("fit", path, *arguments, "id=one")
    assert (done.returncode, done.stdout) == (0, f"runs/{task}/one\n")
    offsets = ", ".join(f"layer4.0.conv1.offset_conv.{name}" for name in ("weight", "bias"))
    [line] = [line for line in done.stderr.splitlines() if line.startswith("weights ")]
    assert line.startswith(f"weights {checkpoint}: ")
    others = [other for other in complaints(done.stderr) if other != line]
    assert all("in no label of data." in other or "means are over" in other for other in others), others
    learnt = torch.load(checkpoint, weights_only=True)["state_dict"]
    transformer = sum(key.startswith("model.transformer.") for key in learnt)
    unused = f"fc.weight, fc.bias, model.transformer.* ({transformer})"
    assert line.endswith(f"; not used: {unused}; not in the file and new: {offsets}")
    config = load_experiment(path, arguments)
    features = task_module(config, [str(number) for number in range(10)]).model.backbone.state_dict()
    taken = [key for key in features if f"model.backbone.{key}" in learnt]
    assert set(features) - set(taken) == set(offsets.split(", "))
    assert all(torch.equal(features[key], learnt[f"model.backbone.{key}"]) for key in taken)
    assert f": {len(taken)} tensors loaded" in line


def test_weights_of_another_network_are_refused_by_name(checkpoint):
    """Weights of ResNet-10 for a ResNet-18 fail in one line that names the first tensor of another shape."""
    path = write("segmentation", **HEADS["segmentation"])
    done = dcnlab("fit", path, f"model.backbone.weights={checkpoint}", "model.backbone.name=resnet18")
    assert (done.returncode, done.stdout) == (2, "")
    assert "does not fit resnet18; of another shape: conv1.weight is 16x3x3x3, should be 64x3x7x7" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.fixture
def imagenet(tmp_path, monkeypatch):
    """Six classes laid out as torchvision's ImageNet unpacks them, nine images in val."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for split, counts in (("train", [6] * 6), ("val", [2, 2, 2, 1, 1, 1])):
        for label, count in enumerate(counts):
            folder = Path("imagenet") / split / f"n0144{label:04d}"
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 255, (40, 48, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{folder.name}_{number}.JPEG")
    Path("imagenet/meta.bin").write_bytes(b"torchvision keeps this beside the splits")
    return "data.root=imagenet"


RECIPE = [
    "model.backbone.name=resnet18", "data.image_size=32", "data.workers=0", "trainer.effective_batch=16",
    "trainer.max_epochs=2", "optim.warmup=2", "optim.label_smoothing=0.1", "optim.ema=0.9", "optim.schedule=cosine",
    "trainer.precision=bf16-mixed", "model.deform_layers=3", "trainer.accelerator=cpu", "trainer.threads=1",
    "logger.wandb=false",
]  # fmt: skip


def read(folder):
    results = json.loads((folder / "results.json").read_text())
    return results, torch.load(folder / "checkpoints/last.ckpt", weights_only=True)


def test_imagenet_recipe_resumes_to_the_same_weights(imagenet, monkeypatch):
    """A run with every option, interrupted at step 3, ends with the weights of an uninterrupted run."""
    options = [imagenet, *RECIPE, "data.batch_size=8"]
    whole = fit(load_experiment("classification/resnet50_imagenet", [*options, "id=whole"]))
    results, end = read(whole)
    assert end["global_step"] == 4  # 36 images in two full steps of 16, twice
    assert set(results["metrics"]) == {"top1", "top5"}

    class Stop(cost.Cost):
        state_key = "Cost"

        def on_train_batch_end(self, trainer, *args):
            super().on_train_batch_end(trainer, *args)
            if trainer.global_step == 3:
                raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr("dcnlab.training.parts.Cost", Stop)
        with pytest.raises(RuntimeError, match="power cut"):
            fit(load_experiment("classification/resnet50_imagenet", [*options, "id=part"]))
    part = whole.parent / "part"
    resume(part)
    again, resumed = read(part)
    assert again["metrics"] == results["metrics"]
    assert all(torch.equal(resumed["state_dict"][key], value) for key, value in end["state_dict"].items())


@pytest.mark.slow
def test_imagenet_recipe_on_two_ranks_scores_images_once(imagenet):
    """Two ranks take as many steps as one and score each test image once, so the metrics agree."""
    done = dcnlab(
        "fit", "classification/resnet50_imagenet", imagenet, *RECIPE, "data.batch_size=4", "trainer.devices=2", "id=two"
    )
    assert (done.returncode, done.stdout, complaints(done.stderr)) == (0, "runs/resnet50_imagenet/two\n", [])
    results, end = read(Path("runs/resnet50_imagenet/two"))
    assert (results["environment"]["world_size"], end["global_step"]) == (2, 4)
    ninths = [results["metrics"][key] * 9 / 100 for key in ("top1", "top5")]
    assert ninths == pytest.approx([round(number) for number in ninths], abs=1e-4)
    alone = dcnlab("evaluate", "runs/resnet50_imagenet/two", "trainer.devices=1", "--format", "json")
    assert json.loads(alone.stdout) == pytest.approx(results["metrics"])
