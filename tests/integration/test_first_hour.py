"""A new user's path: somebody's folder is previewed, trained on and predicted by the README's own lines."""

import json
import re
import shlex
from pathlib import Path

import own_folders
import pytest
from command_line import dcnlab
from locations import ROOT

FOLDERS = {
    "detection": (own_folders.coco, "boxes in COCO's JSON; 2 classes: ball, box"),
    "segmentation": (own_folders.masks, "a folder of images and one of labels; 2 classes: 0, 1"),
    "classification": (own_folders.class_folders, "a folder for each class; 2 classes: ball, box"),
}
SHORT = (
    *(
        "trainer.max_steps=2",
        "trainer.accelerator=cpu",
        "trainer.threads=1",
        "trainer.val_every=1",
        "logger.wandb=false",
    ),
    *("optim.warmup=1", "data.batch_size=4"),
)
"""What makes a run short; nothing of the data."""


def readme_lines(task):
    """The README's three lines for one's own data, of a task: words after `dcnlab`."""
    text = (ROOT / "README.md").read_text()
    lines = re.findall(r"^    dcnlab (.*(?:own data.root=MINE|own_detection/first).*)$", text, re.MULTILINE)
    return [shlex.split(line.partition("#")[0].replace("detection", task)) for line in lines]


def run(words, *more):
    done = dcnlab(*words, *more)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize("task", FOLDERS)
def test_the_readmes_lines_take_a_folder_from_preview_to_prediction(task, tmp_path, monkeypatch):
    """Preview, fit and predict; what was found is said, recorded, and found again by evaluate."""
    monkeypatch.chdir(tmp_path)
    make, found = FOLDERS[task]
    make(Path("MINE"))
    preview, fit, predict = readme_lines(task)
    assert found in run(preview, "--rows", "1").stderr
    assert Path("preview.png").is_file()

    done = run(fit, *SHORT)
    assert found in done.stderr
    assert "train 14, val 2, test 4 (20% test, 10% val held out of all images by a hash" in done.stderr
    folder = Path(f"runs/own_{task}/first")
    recorded = json.loads((folder / "results.json").read_text())["data"]
    assert {name: split["images"] for name, split in recorded["splits"].items()} == {"train": 14, "val": 2, "test": 4}
    assert list((folder / "pictures").glob("*.png"))

    Path("FOLDER").mkdir()
    own_folders.draw(Path("FOLDER/new.png"), "ball")
    run(predict)
    assert list(Path("found").rglob("*.*"))

    before = dcnlab("evaluate", folder)
    assert (before.returncode, "warning" in before.stderr) == (0, False), before.stderr
    Path("MINE").rename("MOVED")
    assert dcnlab("evaluate", folder, "data.root=MOVED").stdout == before.stdout
    first = recorded["splits"]["test"]["images"]
    for image in sorted(Path("MOVED").rglob("photo1*.png"))[:8]:
        image.with_name(f"more_{image.name}").write_bytes(image.read_bytes())
    if task == "classification":
        changed = dcnlab("evaluate", folder, "data.root=MOVED")
        assert f"data.root has changed: its test split has 6 images, and the run's had {first}" in changed.stderr


def test_a_voc_folder_with_classes_is_previewed_and_trained(tmp_path, monkeypatch):
    """A VOC folder with classes.txt and without lists: the order of its classes is that of the file."""
    monkeypatch.chdir(tmp_path)
    own_folders.voc(Path("MINE"))
    preview, fit, _ = readme_lines("detection")
    assert "boxes in VOC's XML; 2 classes: box, ball" in run(preview, "--rows", "1").stderr
    run(fit, *SHORT)
    content = json.loads(Path("runs/own_detection/first/results.json").read_text())
    assert content["data"]["classes"] == ["box", "ball"]
