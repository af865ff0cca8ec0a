"""test_images.npz of runs: its unit weights give results.json's scores."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import small_experiments

from dcnlab.config.load import load_experiment, load_run
from dcnlab.io.errors import ConfigError
from dcnlab.metrics import confusion, image_records
from dcnlab.training.run import evaluate, fit
from dcnlab.training.run_folder import RunFolder

TASKS = list(small_experiments.EXPERIMENTS)


def copied(trained_tasks, task, tmp_path, monkeypatch):
    """A copy of a run, without its record; the current folder is that of its data."""
    monkeypatch.chdir(trained_tasks)
    shutil.copytree(f"runs/{task}/run", tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    folder.test_images.unlink()
    folder.confusion.unlink(missing_ok=True)
    return folder


@pytest.mark.parametrize("task", TASKS)
def test_a_runs_record_gives_its_own_scores(task, trained_tasks):
    """Every metric of results.json, which holds float32, from seven images under their names."""
    folder = RunFolder(trained_tasks / "runs" / task / "run")
    record, results = image_records.read(folder.test_images), folder.read_results()
    assert set(record.metrics) == set(results["metrics"])
    for name, value in results["metrics"].items():
        assert record.scores(name, np.ones((1, 7), int))[0] == pytest.approx(value, abs=1e-5)
    assert len(record.images) == 7
    if task == "classification":
        assert {Path(name).parts[0] for name in record.images} == {"test"}
    else:
        assert record.images == tuple(f"JPEGImages/{number}.jpg" for number in range(16, 23))


@pytest.mark.parametrize("task", TASKS)
def test_evaluate_adds_a_record_to_a_run_without_one(task, trained_tasks, tmp_path, monkeypatch):
    """The same bytes as the run wrote, and the same confusion matrix."""
    folder, trained = copied(trained_tasks, task, tmp_path, monkeypatch), RunFolder(Path(f"runs/{task}/run"))
    evaluate(folder.path, [])
    assert folder.test_images.read_bytes() == trained.test_images.read_bytes()
    for path, first in ((folder.confusion, trained.confusion), (folder.confusion_picture, trained.confusion_picture)):
        assert path.exists() == (task != "detection")
        assert task == "detection" or path.read_bytes() == first.read_bytes()


def test_a_confusion_matrix_gives_the_scores_of_its_run(trained_tasks):
    """The diagonal over all images is the accuracy; over a class's union of pixels its IoU."""
    folders = {task: RunFolder(trained_tasks / "runs" / task / "run") for task in ("classification", "segmentation")}
    counted = {task: confusion.read(folder.confusion) for task, folder in folders.items()}
    counts = counted["classification"].counts
    assert counts.sum() == 7
    top1 = folders["classification"].read_results()["metrics"]["top1"]
    assert 100 * counts.diagonal().sum() / 7 == pytest.approx(top1, abs=1e-5)
    counts, metrics = counted["segmentation"].counts, folders["segmentation"].read_results()["metrics"]
    union = counts.sum(0) + counts.sum(1) - counts.diagonal()
    for name, hits, pixels in zip(counted["segmentation"].classes, counts.diagonal(), union, strict=True):
        assert pixels == 0 or 100 * hits / pixels == pytest.approx(metrics[f"iou/{name}"], abs=1e-4)


def test_evaluate_on_other_images_writes_no_record(trained_tasks, tmp_path, monkeypatch):
    """data.test names another split, whose scores are not those of results.json."""
    folder = copied(trained_tasks, "segmentation", tmp_path, monkeypatch)
    evaluate(folder.path, ["data.test=pair"])
    assert not folder.test_images.exists()


@pytest.mark.parametrize("task", ["digits", "detection"])
def test_a_run_of_one_fold_trains_and_scores(task, tiny):
    """Its record names the images of fold 2 of 5, its config states the fold, and no other fold scores it."""
    small_experiments.write_data()
    name, count = ("tiny", 40) if task == "digits" else ("detection", 5)
    words = ["id=one", "data.fold=2/5", "trainer.max_steps=1", "logger.wandb=false"]
    folder = RunFolder(fit(load_experiment(f"{name}.yaml", words)))
    record, results = image_records.read(folder.test_images), folder.read_results()
    assert results["status"] == "finished"
    assert len(record.images) == count
    for metric, value in results["metrics"].items():
        assert record.scores(metric, np.ones((1, count), int))[0] == pytest.approx(value, abs=1e-5)
    assert load_run(folder.path).data.fold == "2/5"
    assert task != "digits" or record.images[0] == "test of fold 2/5/0"
    for other in ("1/5", "null"):
        with pytest.raises(ConfigError, match=rf"data\.fold is {other}, .* it must be 2/5, as in {folder.config}"):
            evaluate(folder.path, [f"data.fold={other}"])
