"""Curves against rotation and scale: exact on a network that reads pixels, kept in the run, gathered over seeds."""

import csv
import io
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
import yaml
from command_line import dcnlab
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dcnlab.ablations.analysis import robustness, robustness_file, robustness_table, rotated_views
from dcnlab.ablations.plots import robustness_curves
from dcnlab.ablations.sweeps.sweep_file import read
from dcnlab.ablations.sweeps.trial import trials_of
from dcnlab.ablations.tables import render
from dcnlab.config.load import load_experiment, to_yaml
from dcnlab.config.schema import Config, OptimConfig
from dcnlab.io.errors import ConfigError
from dcnlab.tasks.classification import Classification
from dcnlab.training.run import evaluate, fit
from dcnlab.training.run_folder import RunFolder

PLACES = {"top": (0, 2), "left": (2, 0), "bottom": (4, 2), "right": (2, 4), "centre": (2, 2)}
NAMES = list(PLACES)


class PixelReader(nn.Module):
    """Each class's logit is the brightness at its place; the last class's is 0.1."""

    def forward(self, images):
        logits = [images[:, 0, row, column] for row, column in PLACES.values()]
        return torch.stack([*logits, torch.full_like(logits[0], 0.1)], dim=1)


def write_results(folder, **more):
    folder.mkdir(parents=True, exist_ok=True)
    sections = {key: {} for key in ("parameters", "metrics", "model", "cost", "environment")}
    RunFolder(folder).write_results({"schema": 1, "status": "finished", "seed": 0, **sections, **more})


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """A finished run of the pixel reader: each place lit and called by its name, and the top lit and called left."""
    lit = [*NAMES, "top"]
    images = torch.zeros(6, 3, 5, 5)
    for number, name in enumerate(lit):
        row, column = PLACES[name]
        images[number, :, row, column] = 1
    labels = torch.tensor([NAMES.index(name) for name in [*NAMES, "left"]])
    task = Classification(PixelReader(), [*NAMES, "nothing"], OptimConfig())
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip

    class Data(pl.LightningDataModule):
        def test_dataloader(self):
            return DataLoader(TensorDataset(images, labels), 4)

    parts = SimpleNamespace(task=task, trainer=trainer, data=Data())
    monkeypatch.setattr("dcnlab.ablations.analysis.rotated_views.restore", lambda folder, overrides: (Config(), parts))
    folder = tmp_path / "run"
    write_results(folder)
    return folder


def test_robustness_equals_hand_worked_scores(reader):
    """Only a quarter turn counter-clockwise brings the lit top to the left; the centre stays where it is.

    At half size what is lit at the rim lies between it and the centre, at double size outside: both read nothing.
    """
    curves = robustness.measure(reader, [-90, 0, 90, 180, 360], [0.5, 1, 2])
    sixth = 100 / 6
    assert curves.rotation == {
        -90: pytest.approx(sixth), 0: pytest.approx(5 * sixth), 90: pytest.approx(2 * sixth),
        180: pytest.approx(sixth), 360: pytest.approx(5 * sixth),
    }  # fmt: skip
    assert curves.scale == {0.5: pytest.approx(sixth), 1: pytest.approx(5 * sixth), 2: pytest.approx(sixth)}


def test_robustness_json_has_the_form_the_report_reads(reader):
    """Angles and scales are sorted pairs with their score in percent."""
    robustness.measure(reader, [90, 0], [1])
    tree = json.loads((reader / "robustness.json").read_text())
    assert tree == {
        "schema": 1,
        "metric": "top1",
        "rotation": [[0.0, pytest.approx(500 / 6)], [90.0, pytest.approx(200 / 6)]],
        "scale": [[1.0, pytest.approx(500 / 6)]],
    }


@pytest.mark.parametrize("pair", ["[NaN, 50]", "[0, 1e999]", "[0]", '["a", 50]', "0"])
def test_a_robustness_json_of_wrong_numbers_is_named(tmp_path, pair):
    """Angles and scores are finite numbers, in pairs; one line names the file."""
    path = tmp_path / "robustness.json"
    path.write_text(f'{{"schema": 1, "metric": "top1", "rotation": [[0, 1], {pair}], "scale": []}}')
    with pytest.raises(ConfigError, match=rf"\A{path}: not a metric with pairs of rotation and percent.*remove it\Z"):
        robustness_file.read(tmp_path)


def test_only_missing_angles_and_scales_are_tested(reader, monkeypatch):
    """Values that robustness.json already has are not computed again."""
    tested = []
    test = rotated_views.top1
    monkeypatch.setattr(rotated_views, "top1", lambda folder, chosen, _: tested.append(chosen) or test(folder, chosen))
    robustness.measure(reader, [0, 90], [])
    robustness.measure(reader, [0, 90, 180], [2])
    curves = robustness.measure(reader, [90], [2])
    assert tested == [[(0, 1), (90, 1)], [(0, 2), (180, 1)]]
    assert (list(curves.rotation), list(curves.scale)) == ([0, 90, 180], [2])
    assert robustness_file.read(reader) == curves


@pytest.mark.parametrize(
    "text", ["{}", "[]", '{"schema": 2}', '{"schema": 1, "metric": "top1", "rotation": [[0]], "scale": []}']
)
def test_a_foreign_robustness_file_is_refused_in_one_line(reader, text):
    """A robustness.json with missing or misshapen keys is named."""
    (reader / "robustness.json").write_text(text)
    with pytest.raises(ConfigError, match=r"robustness\.json: ") as caught:
        robustness.measure(reader, [0], [])
    assert "\n" not in str(caught.value)


def test_unfinished_runs_and_other_tasks_are_refused(reader, monkeypatch):
    """Robustness needs a finished classification run; no file is written otherwise."""
    restored = SimpleNamespace(task="detection"), SimpleNamespace(task=1)
    monkeypatch.setattr("dcnlab.ablations.analysis.rotated_views.restore", lambda *_: restored)
    with pytest.raises(ConfigError, match="run is of task detection; robustness is measured for classification"):
        robustness.measure(reader, [0], [])
    write_results(reader, status="interrupted")
    with pytest.raises(ConfigError, match="run is not finished"):
        robustness.measure(reader, [0], [])
    assert not (reader / "robustness.json").exists()


def test_robustness_equals_evaluate_at_the_same_rotation(tiny):
    """At 0 degrees and scale 1 the score is results.json's; at others it is evaluate's."""
    folder = fit(
        load_experiment(tiny, ["logger.wandb=false", "id=one", "trainer.max_steps=12", "data.train_length=256"])
    )
    own = json.loads((folder / "results.json").read_text())["metrics"]["top1"]
    curves = robustness.measure(folder, [0, 30], [0.5, 1], ["data.batch_size=7"])
    assert (curves.rotation[0], curves.scale[1]) == (own, own)
    assert evaluate(folder, ["test.rotation=0", "test.magnification=1"])["top1"] == own
    assert evaluate(folder, ["test.rotation=30"])["top1"] == pytest.approx(curves.rotation[30])
    assert evaluate(folder, ["test.magnification=0.5"])["top1"] == pytest.approx(curves.scale[0.5])
    done = dcnlab("robustness", folder, "--angles", "0,30", "--scales", "", "--format", "csv")
    assert (done.returncode, done.stderr) == (0, "")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [(row["run"], row["change"], row["amount"]) for row in rows] == [
        (str(folder), "rotation", "0.0"),
        (str(folder), "rotation", "30.0"),
    ]
    assert float(rows[0]["top1"]) == own


# top1 at 0 and 90 degrees and at double size, of seeds 0 and 1; the other setting's second run is missing.
KNOWN = {(0, 0): (70, 30, 50), (0, 1): (74, 40, 60), (3, 0): (80, 41, 50)}


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """A sweep with finished runs that have their curves."""
    monkeypatch.chdir(tmp_path)
    Path("one.yaml").write_text("trainer: {max_steps: 2}\n")
    model = [
        {"deform_layers": layers, "modulated": bool(layers), "spatial_transformer": False, "dilation": 2}
        for layers in (0, 3)
    ]
    tree = {
        "program": "one.yaml",
        "command": ["${env}", "dcnlab", "fit", "${program}", "${args_json_file}"],
        "method": "grid",
        "metric": {"name": "test/top1", "goal": "maximize"},
        "parameters": {"model": {"values": model}, "seed": {"values": [0, 1]}},
    }
    Path("ablation.yaml").write_text(yaml.safe_dump(tree))
    for trial in trials_of(read("ablation.yaml")):
        known = KNOWN.get((trial.parameters["model.deform_layers"], trial.parameters["seed"]))
        if known is not None:
            write_results(trial.folder, parameters=trial.parameters, seed=trial.parameters["seed"])
            (trial.folder / "config.yaml").write_text(to_yaml(trial.config))
            curves = {"rotation": [[0, known[0]], [90, known[1]]], "scale": [[2, known[2]]]}
            (trial.folder / "robustness.json").write_text(json.dumps({"schema": 1, "metric": "top1", **curves}))
    return "ablation.yaml"


def test_robustness_rows_equal_hand_worked_means_and_std(sweep):
    """Rows hold mean, std and difference to the base group over two seeds, for each angle and scale."""
    found = robustness.assemble([sweep], [Path("runs")], [0, 90], [2])
    picked = [
        [row[key] for key in ("model.deform_layers", "change", "amount", "top1", "top1_std", "top1_difference")]
        + [row["seeds"], row["seeds_wanted"]]
        for row in found.rows
    ]
    assert picked == [
        [0, "rotation", 0, 72, pytest.approx(8**0.5), None, 2, 2],
        [3, "rotation", 0, 80, None, 8, 1, 2],
        [0, "rotation", 90, 35, pytest.approx(50**0.5), None, 2, 2],
        [3, "rotation", 90, 41, None, 6, 1, 2],
        [0, "scale", 2, 55, pytest.approx(50**0.5), None, 2, 2],
        [3, "scale", 2, 50, None, -5, 1, 2],
    ]


def test_robustness_tables_name_only_what_differs(sweep):
    """The caption lists the first group's settings; rows have the short names of tables."""
    found = robustness.assemble([sweep], [Path("runs")], [0, 90], [2])
    rotation, scale = robustness_table.blocks(found)
    assert rotation.caption == (
        "ablation: top1 (%) against rotation of the test images; "
        "plain: deform_layers 0, dilation 2, modulated false, spatial_transformer false"
    )
    assert rotation.header == ["", "0°", "90°"]
    assert rotation.lines == [
        ["plain", "72.0 ± 2.8", "35.0 ± 7.1"],
        ["3 deformable modulated (1 of 2 seeds!)", "80.0", "41.0"],
    ]
    assert (scale.header, scale.lines[0][1]) == (["", "2x"], "55.0 ± 7.1")
    assert "72.0 ± 2.8" in render.render(found.rows, [rotation], "markdown")


def test_robustness_of_a_sweep_trains_nothing(sweep):
    """It writes rows and a plot from finished runs."""
    done = dcnlab(
        "robustness", sweep, "--runs", "runs", "--angles", "0,90", "--scales", "2", "--out", "o", "--format", "markdown"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "| plain " in done.stdout
    assert len(json.loads(Path("o/robustness.json").read_text())) == 6
    with Image.open("o/robustness.png") as picture:
        assert picture.format == "PNG"
        assert picture.width == 1400  # two panels


def test_the_figures_title_says_what_it_shows():
    """The metric and the changes stand there, and not the name of a sweep alone."""
    title = robustness_curves.heading("related_work", ["rotation", "scale"])
    assert title == "Top-1 accuracy under rotation and scaling of the test images: related_work"
    assert "scaling" not in robustness_curves.heading("runs", ["rotation"])


def test_robustness_plots_allow_missing_groups_and_odd_names(sweep):
    """A group without a score, no scales, and a label that looks like mathematics."""
    found = robustness.assemble([sweep], [Path("runs")], [0, 90], [])
    found.labels[0] = "$x_{ a"
    for row in found.rows:
        if row["model.deform_layers"] == 3:
            row["top1"] = None
    with Image.open(io.BytesIO(robustness_table.draw(found))) as picture:
        assert picture.width == 770


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("ablation.yaml --angles 0,east", "--angles is '0,east'; it must be numbers with commas between them"),
        ("ablation.yaml --angles 400", "--angles is 400; it must be between -360 and 360"),
        ("ablation.yaml --scales 0", "--scales is 0; it must be between 0.1 and 10"),
        ("ablation.yaml --angles= --scales=", "--angles and --scales are both empty"),
        ("ablation.yaml runs", "robustness takes one sweep file, or run folders"),
        ("runs/x", "no such run: runs/x"),
        ("ablation.yaml --format png", "--format is 'png'; choose from"),
        ("runs model.dilation=2", "model.dilation=2: of a run's settings, robustness takes data.root"),
    ],
)
def test_wrong_robustness_arguments_are_one_line(sweep, command, says):
    """Exit status 2, nothing on stdout and one line with the reason."""
    done = dcnlab("robustness", *command.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
