"""A segmentation run from files to results: learns, draws pictures, and survives a kill -9 to the same weights."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import complaints, dcnlab, kill_after_its_first_checkpoint
from PIL import Image
from torch.nn.functional import interpolate

from dcnlab.config.load import load_experiment, load_run
from dcnlab.io.errors import ConfigError
from dcnlab.training import run as runs
from dcnlab.training.parts import build
from dcnlab.training.run import evaluate
from dcnlab.training.run_folder import RunFolder

TINY = """
name: tiny
task: segmentation
data:
  {name: imagelist, root: scenes, classes: [sky, ground, ball], val: null, batch_size: 4, random_scale: [0.8, 1.2],
   crop_size: [32, 40]}
model: {name: deeplab, dilation: 1, deform_layers: 2, head_channels: 32, backbone: {name: resnet10_slim}}
optim: {name: adamw, lr: 0.01}
trainer: {max_steps: 40, accelerator: cpu, threads: 1}
logger: {wandb: false}
"""


@pytest.fixture
def scenes(tmp_path, monkeypatch):
    """A sky over a ground with a ball on it, in colours that tell them apart, 16 to learn on and 5 to test."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for split, count in (("train", 16), ("test", 5)):
        lines = []
        for number in range(count):
            rows, columns = np.mgrid[:40, :48]
            label = (rows > random.integers(15, 25)).astype(np.uint8)
            label[(rows - 28) ** 2 + (columns - random.integers(10, 38)) ** 2 < 64] = 2
            colours = np.array([[120, 160, 230], [90, 120, 60], [220, 60, 50]])
            image = (colours[label] + random.integers(-20, 20, (40, 48, 3))).clip(0, 255).astype(np.uint8)
            label[:2] = 255
            folder = Path("scenes") / split
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{number}.png")
            Image.fromarray(label).save(folder / f"{number}_label.png")
            lines.append(f"{split}/{number}.png {split}/{number}_label.png\n")
        (Path("scenes") / f"{split}.txt").write_text("".join(lines))
    Path("tiny.yaml").write_text(TINY)
    return tmp_path


def fit(*overrides):
    return runs.fit(load_experiment("tiny.yaml", list(overrides)))


def test_a_run_learns_and_draws_its_predictions(scenes):
    """120 steps reach a mean IoU above 80, the mean of its classes, and pictures are saved."""
    folder = fit("id=one", "trainer.max_steps=120")  # 40 reach 80 from one start of four, 120 from all
    results = json.loads((folder / "results.json").read_text())
    assert set(results["metrics"]) == {"miou", "iou/sky", "iou/ground", "iou/ball"}
    mean = sum(results["metrics"][f"iou/{name}"] for name in ("sky", "ground", "ball")) / 3
    assert results["metrics"]["miou"] == pytest.approx(mean, abs=1e-4)
    assert results["metrics"]["miou"] > 80
    assert results["model"]["params"] > 0
    pictures = sorted((folder / "pictures").iterdir())
    assert [picture.name for picture in pictures] == ["0.png", "1.png", "2.png", "3.png", "confusion.png"]
    assert Image.open(pictures[0]).width > 3 * 48
    again = evaluate(folder, ["test.flip=true", "test.scales=[0.75,1,1.25]"])
    assert again["miou"] > 80
    assert again != results["metrics"]
    assert evaluate(folder, []) == results["metrics"]


def iou_by_hand(net, scales, flip):
    """Each class's IoU, percent, of half-size images scored at their labels' own size, read and counted without us."""
    hits, unions = np.zeros(3), np.zeros(3)
    for line in Path("scenes/test.txt").read_text().splitlines():
        image, label = (Image.open(Path("scenes") / name) for name in line.split())
        pixels = torch.from_numpy(np.array(image.resize((24, 20), Image.Resampling.BILINEAR))).permute(2, 0, 1) / 255
        mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
        scores = torch.zeros(3, 40, 48)
        for scale in scales:
            size = (round(20 * scale), round(24 * scale))
            scaled = interpolate(((pixels - mean) / std)[None], size, mode="bilinear", antialias=True)
            for axes in ([], [-1]) if flip else ([],):
                with torch.no_grad():
                    large = interpolate(net(scaled.flip(axes)), (40, 48), mode="bilinear")
                scores += large.softmax(1).flip(axes)[0]
        found, truth = scores.argmax(0).numpy(), np.array(label)
        for number in range(3):
            ours, theirs = (found == number) & (truth != 255), truth == number
            hits[number] += (ours & theirs).sum()
            unions[number] += (ours | theirs).sum()
    return 100 * hits / unions


def test_resized_images_are_scored_at_the_labels_size(scenes):
    """IoU with shorter_side, scales and flip equals a computation by hand on full-size labels."""
    folder = fit("id=half", "data.shorter_side=20", "trainer.max_steps=20")
    config = load_run(folder, [])
    task = build(config, RunFolder(folder)).task
    task.load_state_dict(torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"])
    for scales, flip in (([1.0], False), ([0.5, 1.0, 1.5], True)):
        found = evaluate(folder, [f"test.scales={scales}", f"test.flip={str(flip).lower()}"])
        expected = iou_by_hand(task.model.eval(), scales, flip)
        # PIL and torch round a resized image's colours differently, by one of 255, and few pixels by that.
        assert [found[f"iou/{name}"] for name in ("sky", "ground", "ball")] == pytest.approx(list(expected), abs=0.5)
        assert found["miou"] == pytest.approx(expected.mean(), abs=0.3)


@pytest.mark.slow
def test_a_killed_segmentation_run_resumes_to_same_weights(scenes):
    """After SIGKILL and resume, weights and metrics equal those of an uninterrupted run."""
    whole, part = fit("id=whole"), Path("runs/tiny/part")
    kill_after_its_first_checkpoint(part, "fit", "tiny.yaml", "id=part")
    done = dcnlab("resume", part)
    assert (done.returncode, done.stdout) == (0, f"{part}\n"), done.stderr
    ends = [torch.load(run / "checkpoints/last.ckpt", weights_only=True) for run in (whole, part)]
    assert ends[0]["global_step"] == ends[1]["global_step"] == 40
    assert all(torch.equal(ends[0]["state_dict"][key], value) for key, value in ends[1]["state_dict"].items())
    found = [json.loads((run / "results.json").read_text())["metrics"] for run in (whole, part)]
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("model.name=resnet", "model.name is 'resnet'; task segmentation takes deeplab"),
        ("data.name=imagefolder", "data.name is 'imagefolder'; task segmentation takes"),
        ("data.test=tset", "nearest"),
        ("test.scales=[]", "test.scales is []"),
    ],
)
def test_impossible_segmentation_settings_are_one_line(scenes, override, says):
    """Exit status 2, one line with the reason, and no run folder."""
    done = dcnlab("fit", "tiny.yaml", override)
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert not Path("runs").exists()


def test_a_label_outside_the_classes_names_file_and_value(scenes):
    """A pixel with label 7 of 3 classes stops the run with exit status 2 and one line."""
    label = np.array(Image.open("scenes/train/3_label.png"))
    label[20, 20] = 7
    Image.fromarray(label).save("scenes/train/3_label.png")
    done = dcnlab("fit", "tiny.yaml", "id=one")
    assert done.returncode == 2
    assert "3_label.png holds the label value 7" in done.stderr
    assert len(complaints(done.stderr)) == 1


def test_a_test_split_of_ignored_pixels_is_not_scored(scenes):
    """Where all pixels are 255, the run finishes without metrics, and warnings and a note say why."""
    for label in Path("scenes/test").glob("*_label.png"):
        Image.fromarray(np.full((40, 48), 255, np.uint8)).save(label)
    done = dcnlab("fit", "tiny.yaml", "id=one", "trainer.max_steps=4", "logger.every=1", "data.val=test")
    assert (done.returncode, done.stdout) == (0, "runs/tiny/one\n")
    assert complaints(done.stderr) == [
        "warning: data.val has no pixel with a class, only ignored ones, in its 5 labels; val/... is not scored",
        "warning: data.test has no pixel with a class, only ignored ones, in its 5 labels; it is run, but there is "
        "nothing to score",
        "note: no metrics: data.test has nothing to find, no label of any class",
    ]
    results = json.loads(Path("runs/tiny/one/results.json").read_text())
    assert (results["status"], results["metrics"]) == ("finished", {})
    assert results["metrics_over"] == {"classes": [], "left_out": ["sky", "ground", "ball"]}
    assert "miou" not in Path("runs/tiny/one/metrics.csv").read_text()


def test_training_on_ignored_pixels_only_is_refused(scenes):
    """A training split whose pixels are all 255 gives one line, exit status 2 and no run folder."""
    for label in Path("scenes/train").glob("*_label.png"):
        Image.fromarray(np.full((40, 48), 255, np.uint8)).save(label)
    done = dcnlab("fit", "tiny.yaml", "id=one")
    assert done.returncode == 2
    assert "data.train has no pixel with a class" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not Path("runs").exists()


def test_a_mean_over_fewer_classes_is_always_noted(scenes):
    """fit, evaluate, table and results.json name the classes that the mean IoU leaves out."""
    for label in Path("scenes").glob("*/*_label.png"):
        Image.fromarray(np.where(np.asarray(Image.open(label)) == 0, 0, 255).astype(np.uint8)).save(label)
    done = dcnlab("fit", "tiny.yaml", "id=one")
    assert done.returncode == 0, done.stderr
    warning, note = complaints(done.stderr)
    assert "classes 'ground', 'ball' are in no label of data.train (16 of 16 labels read), data.test" in warning
    assert "next to 0 the only value there is 255, which is ignored" in warning
    assert note == "note: means are over 1 of 3 classes, without those that data.test lacks: ground, ball"
    results = json.loads(Path("runs/tiny/one/results.json").read_text())
    assert results["metrics"] == {"miou": 100, "iou/sky": 100}
    assert results["metrics_over"] == {"classes": ["sky"], "left_out": ["ground", "ball"]}
    again = dcnlab("evaluate", "runs/tiny/one")
    assert (again.stdout, again.stderr.splitlines()[1]) == ("miou 100.00\niou/sky 100.00\n", note)
    shown = dcnlab("table", "tiny")
    assert "note: 1 of 1 runs: means are over 1 of 3 classes" in shown.stderr


def test_evaluate_refuses_a_network_unlike_the_checkpoint(scenes):
    """An override of layers or classes that does not fit the checkpoint is named in one line."""
    folder = fit("id=one", "trainer.max_steps=2")
    for override in ("model.deform_layers=1", "data.classes=[sky,ground]"):
        done = dcnlab("evaluate", folder, override)
        assert done.returncode == 2
        assert f"{override} asks for another network than" in done.stderr
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "override", ["test.scales=[.inf]", "data.mean=[.nan,0,0]", "data.std=[.inf,1,1]", "optim.lr=.inf"]
)
def test_infinite_and_nan_settings_are_refused_by_key(scenes, override):
    """Infinity and NaN are valid YAML numbers, so each key checks for them."""
    with pytest.raises(ConfigError, match=override.partition("=")[0].replace(".", r"\.")):
        load_experiment("tiny.yaml", [override])


def test_pictures_of_several_sizes_reach_wandb(scenes):
    """wandb warns about images of unequal size in one list; the run must print no warning."""
    for name in ("1.png", "1_label.png"):
        path = Path("scenes/test") / name
        Image.open(path).crop((0, 0, 40, 36)).save(path)
    done = dcnlab("fit", "tiny.yaml", "id=one", "trainer.max_steps=2", "logger.wandb=true")
    assert (done.returncode, done.stdout, complaints(done.stderr)) == (0, "runs/tiny/one\n", [])
    mirrored = list(Path("runs/tiny/one/wandb").glob("offline-run-*/files/media/images/**/*.png"))
    assert len(mirrored) == len(list(Path("runs/tiny/one/pictures").iterdir())) == 5


FROZEN = [
    *("model.backbone.freeze_at=all", "model.top_stage=dense", "data.cache_features=true"),
    *("data.random_scale=[1,1]", "data.crop_size=null", "trainer.max_steps=8"),
]


def test_a_second_run_finds_the_features_and_learns_the_same(scenes):
    """Cached maps train to the weights that computed ones do; another size of the images finds none of them."""
    folder = fit("id=one", *FROZEN, "trainer.deterministic=true")
    [cache] = Path("runs/.features").iterdir()
    files = {path.name: path.stat().st_mtime_ns for path in cache.iterdir()}
    assert 16 <= len(files) - 5 <= 32  # each training image, perhaps mirrored as well; and five test images
    again = fit("id=two", *FROZEN, "trainer.deterministic=true")
    assert {path.name: path.stat().st_mtime_ns for path in cache.iterdir()} == files
    first, second = (torch.load(run / "checkpoints/last.ckpt")["state_dict"] for run in (folder, again))
    assert all(torch.equal(first[key], second[key]) for key in first)
    computed = fit("id=three", *FROZEN, "data.cache_features=false", "data.batch_size=1")
    assert {path.name: path.stat().st_mtime_ns for path in cache.iterdir()} == files
    cached = fit("id=four", *FROZEN, "data.batch_size=1")
    one, other = (torch.load(run / "checkpoints/last.ckpt")["state_dict"] for run in (computed, cached))
    for key in one:
        torch.testing.assert_close(one[key], other[key], rtol=1e-3, atol=1e-4)
    fit("id=five", *FROZEN, "data.shorter_side=24", "trainer.max_steps=1")
    assert len(list(cache.iterdir())) > len(files)
    assert {path.name: path.stat().st_mtime_ns for path in cache.iterdir() if path.name in files} == files
