"""What a run mirrors to Weights & Biases is all there, in the file that `wandb sync` sends and as tables read it."""

import json
import os
from pathlib import Path

import pytest
import wandb
import wandb_file
import yaml
from command_line import dcnlab
from PIL import Image

from dcnlab.config import identity
from dcnlab.config.load import from_yaml, load_run
from dcnlab.training.loggers import wandb_run
from dcnlab.training.run_folder import RunFolder

RESULTS = {
    "schema": 1,
    "name": "some",
    "status": "finished",
    "seed": 0,
    "parameters": {"model.deform_layers": 1},
    "metrics": {"miou": 61.25, "iou/Sky": 90.5, "iou/Road": 32.0},
    "model": {"params": 1000, "macs": 2_000_000},
    "cost": {"train_seconds": 10.0, "images_per_second": None, "peak_memory_bytes": 5},
    "environment": {"git": "abc"},
    "wandb": {"id": None, "sweep": None},
}


def mirrored(folder):
    [path] = folder.glob("wandb/offline-run-*/run-*.wandb")
    return wandb_file.records(path), path.parent


def test_an_offline_wandb_file_holds_config_and_results(tiny):
    """wandb's own file has the config, results.json and the goals of the metrics."""
    done = dcnlab("fit", tiny, "id=one", "logger.artifacts=true", "seed=3")
    assert done.returncode == 0, done.stderr
    folder = Path("runs/tiny/one")
    found, _ = mirrored(folder)
    config, summary = wandb_file.config(found), wandb_file.summary(found)
    results = json.loads((folder / "results.json").read_text())
    assert json.loads(summary[wandb_run.RESULTS]) == results
    assert (config["seed"], config[wandb_run.ROW]) == (3, "tiny")
    kept = from_yaml(config[wandb_run.CONFIG], "wandb")
    assert identity.settings(kept) == identity.settings(load_run(folder))
    for key, value in {**results["metrics"], **results["model"]}.items():
        assert summary[key] == value
    # A sweep finds a number under the name of its metric, and of what is scored several times the best.
    assert summary["test/top1"] == results["metrics"]["top1"]
    losses = [row["train/loss"] for row in wandb_file.history(found) if "train/loss" in row]
    assert len(losses) == 2
    assert summary["train/loss"] == min(losses)
    goals = {
        one.metric.name or one.metric.glob_name: (one.metric.summary.min, one.metric.summary.max)
        for one in found
        if one.WhichOneof("record_type") == "metric"
    }
    best = {"train/loss": (True, False), "val/*": (False, True), "test/*": (False, True)}
    assert best.items() <= goals.items()
    axes = {one.metric.name or one.metric.glob_name: one.metric.step_metric for one in found if one.HasField("metric")}
    for name in ("train/*", "offsets/*", "epoch", *best):
        assert axes[name] == "trainer/global_step", name
    [artifact] = [one.artifact for one in found if one.artifact.type == "model"]
    [file] = artifact.manifest.contents
    assert (artifact.name, file.path) == ("tiny-one", "last.ckpt")
    assert Path(file.local_path) == (RunFolder(folder).checkpoint).resolve()


@pytest.fixture
def run(tmp_path, monkeypatch):
    """An offline run of wandb's, in a folder of its own."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    settings = wandb.Settings(silent=True, console="off", disable_git=True, x_disable_stats=True)
    return wandb.init(project="p", dir=tmp_path, mode="offline", settings=settings)


def test_wandb_gets_tables_and_figures_but_no_checkpoint(run, tmp_path):
    """A checkpoint is uploaded only on request; uploads wait in the run folder, not in the home folder."""
    (tmp_path / "figures").mkdir()
    Image.new("RGB", (8, 6)).save(tmp_path / "figures" / "offsets.png")
    config = from_yaml(yaml.safe_dump({"trainer": {"max_steps": 1}, "id": "one"}), "test")
    wandb_run.define(run)
    run.log({"val/miou": 50.0})
    run.log({"val/miou": 40.0})
    wandb_run.finish(run, config, RunFolder(tmp_path), RESULTS)
    wandb.teardown()  # its process writes on for a moment
    found, folder = mirrored(tmp_path)
    summary = wandb_file.summary(found)
    assert (summary["val/miou"], summary["test/miou"], summary["macs"]) == (50.0, 61.25, 2_000_000)
    logged = {key: json.loads(path.read_text()) for key, path in tables_in(folder).items()}
    assert logged["metrics"] == {"columns": ["metric", "percent"], "data": [["miou", 61.25]]}
    assert logged["classes"] == {"columns": ["class", "iou"], "data": [["Sky", 90.5], ["Road", 32.0]]}
    [picture] = folder.glob("files/media/images/figures/offsets*.png")
    assert Image.open(picture).size == (8, 6)
    assert not [one for one in found if one.artifact.type == "model"]
    # What waits for its upload lies in the run folder, not in the user's home.
    staged = [entry.local_path for one in found for entry in one.artifact.manifest.contents]
    assert staged
    assert all(Path(path).is_relative_to(tmp_path) for path in staged)
    assert "WANDB_DATA_DIR" not in os.environ


def tables_in(folder):
    paths = folder.glob("files/media/table/tables/*.table.json")
    return {path.name.partition("_")[0]: path for path in paths}


def test_a_server_that_takes_no_tables_ends_no_run(run, tmp_path, monkeypatch, caplog):
    """The server may go away at the end of a run: a line says so, and the results are in the summary."""

    def refuse(*arguments):
        raise wandb.errors.AuthenticationError("no answer")

    monkeypatch.setattr(run, "log", refuse)
    config = from_yaml(yaml.safe_dump({"trainer": {"max_steps": 1}, "id": "one"}), "test")
    wandb_run.finish(run, config, RunFolder(tmp_path), RESULTS)
    wandb.teardown()
    assert wandb_file.summary(mirrored(tmp_path)[0])["test/miou"] == 61.25
    assert "did not take tables, plots or the checkpoint (no answer)" in caplog.text
