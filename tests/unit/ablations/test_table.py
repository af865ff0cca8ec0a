"""Tables hold worked-out means, spreads and differences, and never mix runs silently."""

import csv
import io
import json
import math
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml
from locations import SHARED
from processes import GUARD

from dcnlab.ablations.sweeps.sweep_file import read
from dcnlab.ablations.sweeps.trial import trials_of
from dcnlab.ablations.tables import build_table, render
from dcnlab.ablations.tables import table as tables
from dcnlab.ablations.tables.comparison import Options
from dcnlab.cli.ablate import tabulate
from dcnlab.config.load import to_yaml
from dcnlab.io.errors import ConfigError
from dcnlab.metrics import image_records
from dcnlab.metrics.classification_record import ClassificationRecord
from dcnlab.training.run_folder import RunFolder

# layers: top-1 of seeds 0, 1 and 2; the last trial is missing.
SCORES = {0: [70.0, 72.0, 77.0], 1: [75.0, 75.5, 76.0], 2: [80.0, 70.0, None]}
# Worked out by hand: mean, standard deviation (n - 1), difference to layers 0.
DIFFERENCE = "difference [low, high]"
ROWS = {0: (73.0, 13**0.5, 0.0, 3), 1: (75.5, 0.5, 2.5, 3), 2: (75.0, 50**0.5, 2.0, 2)}


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """A sweep file in an empty folder."""
    monkeypatch.chdir(tmp_path)
    Path("one.yaml").write_text("trainer: {max_steps: 2}\n")
    tree = {
        "program": "one.yaml",
        "command": ["${env}", "dcnlab", "fit", "${program}", "${args_json_file}"],
        "method": "grid",
        "metric": {"name": "test/top1", "goal": "maximize"},
        "parameters": {"model.deform_layers": {"values": [0, 1, 2]}, "seed": {"values": [0, 1, 2]}},
    }
    Path("ablation.yaml").write_text(yaml.safe_dump(tree))
    return "ablation.yaml"


def write_run(trial, top1, git="abc", status="finished", folder=None, weights=None):
    folder = folder or trial.folder
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(to_yaml(trial.config))
    layers = trial.parameters.get("model.deform_layers", 0)
    results = {
        "schema": 1,
        "name": trial.config.name,
        "status": status,
        "seed": trial.config.seed,
        "parameters": trial.parameters,
        "metrics": {"loss": 0.5, "top1": top1} if status == "finished" else {},
        "model": {"params": 1000 + layers, "macs": 2_000_000 + layers, "weights": weights},
        "cost": {"train_seconds": 10.0 + trial.config.seed, "images_per_second": 1.0, "peak_memory_bytes": 1},
        "environment": {"git": git, "dcnlab": "1", "torch": "2"},
        "wandb": {"id": None, "sweep": None},
    }
    RunFolder(folder).write_results(results)
    return folder


@pytest.fixture
def finished(sweep):
    """The sweep with its runs."""
    for trial in trials_of(read(sweep)):
        top1 = SCORES[trial.parameters["model.deform_layers"]][trial.parameters["seed"]]
        if top1 is not None:
            write_run(trial, top1)
    return sweep


def assemble(name, *overrides, roots=("runs",)):
    return build_table.assemble(name, [Path(root) for root in roots], overrides)


def notes(found):
    """All notes but those on what intervals and tests mean."""
    return [note for note in found.notes if "sign-flip" not in note and "interval" not in note]


def assert_worked_out(rows):
    assert [row["model.deform_layers"] for row in rows] == list(ROWS)
    for row, (mean, std, difference, seeds) in zip(rows, ROWS.values(), strict=True):
        assert row["top1"] == pytest.approx(mean, abs=1e-12)
        assert row["top1_std"] == pytest.approx(std, abs=1e-12)
        assert (row["top1_difference"] or 0) == pytest.approx(difference, abs=1e-12)
        assert (row["seeds"], row["seeds_wanted"]) == (seeds, 3)


def test_table_equals_hand_worked_means_and_std(finished):
    """The sweep's metric comes first, and the first row has no difference."""
    found = assemble(finished)
    assert_worked_out(found.rows)
    assert found.metrics == ["top1", "loss"]  # the sweep's own metric first
    assert found.rows[0]["top1_difference"] is None
    assert [row["train_seconds"] for row in found.rows] == [11.0, 11.0, 10.5]
    assert [(row["params"], row["macs"]) for row in found.rows] == [(1000 + n, 2_000_000 + n) for n in range(3)]
    assert notes(found) == []


def test_json_and_csv_are_the_rows_at_full_precision(finished):
    found = assemble(finished)
    assert_worked_out(json.loads(tables.render(found, "json")))
    rows = list(csv.DictReader(io.StringIO(tables.render(found, "csv"))))
    assert [row["model.deform_layers"] for row in rows] == ["0", "1", "2"]
    assert float(rows[0]["top1_std"]) == 13**0.5
    assert (rows[0]["top1_difference"], rows[0]["params"], rows[2]["seeds"]) == ("", "1000", "2")


def test_markdown_marks_rows_with_missing_seeds(finished):
    """A row with 2 of 3 seeds carries (!), and the paper's table says that its data set differs."""
    text = tables.render(assemble(finished), "markdown")
    ours, caption, paper = text.split("\n\n")
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in ours.splitlines()]
    assert cells[0][:5] == ["deform_layers", "top1 (%)", DIFFERENCE, "loss (%)", DIFFERENCE]
    assert cells[0][5:] == ["seeds", "parameters", "MACs (M)", "seconds"]
    assert cells[2] == ["0", "73.00 ± 3.61", "", "0.50 ± 0.00", "", "3", "1,000", "2.00", "11.0"]
    # Seeds 0 and 1 differ by 10 and -2. Student's t: 4 ± 12.706 x 6; the difference of means is over all seeds.
    assert cells[4][:3] == ["2", "75.00 ± 7.07", "+2.00 [-72.24, +80.24] no conclusion"]
    assert cells[4][5] == "2 of 3 (!)"
    assert "For orientation" in caption
    assert "another data set" in caption
    assert [line.split("|")[1].strip() for line in paper.splitlines()[2:]] == ["0", "1", "2", "3", "6"]
    assert "75.2 (+5.5)" in paper  # DeepLab, VOC, three layers: 75.2 - 69.7


def test_a_row_without_any_run_says_missing(finished):
    for trial in trials_of(read(finished)):
        if trial.parameters["model.deform_layers"] == 1:
            shutil.rmtree(trial.folder)
    found = assemble(finished)
    assert (found.rows[1]["top1"], found.rows[1]["seeds"]) == (None, 0)
    line = tables.render(found, "markdown").splitlines()[3]
    assert "missing" in line
    assert "0 of 3 (!)" in line
    rows = list(csv.DictReader(io.StringIO(tables.render(found, "csv"))))
    assert (rows[1]["top1"], rows[1]["seeds"], rows[0]["params"]) == ("", "0", "1000")


def test_without_a_base_row_there_are_no_differences(finished):
    """The first row of the file has no run, so the others have nothing to be compared with."""
    for trial in trials_of(read(finished)):
        if trial.parameters["model.deform_layers"] == 0:
            shutil.rmtree(trial.folder)
    assert [row["top1_difference"] for row in assemble(finished).rows] == [None, None, None]


def test_plain_output_has_no_escape_codes(finished, capsys):
    """Where stdout is not a terminal, tables have no colours and no trailing blanks."""
    tables.show(assemble(finished))
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "73.00 ± 3.61" in out
    assert "For orientation" in out
    assert all(line == line.rstrip() for line in out.splitlines())


def test_the_papers_table_below_can_be_left_out(finished, capsys):
    """--no-paper prints our rows alone."""
    tabulate(str(finished), runs=[Path("runs")], no_paper=True, form="markdown")
    out = capsys.readouterr().out
    assert "73.00 ± 3.61" in out
    assert "For orientation" not in out


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex")
def test_latex_compiles(finished, tmp_path):
    """pdflatex compiles the table with booktabs and stops at no error."""
    body = tables.render(assemble(finished), "latex")
    document = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\\tiny\n" + body + "\n\\end{document}\n"
    (tmp_path / "table.tex").write_text(document)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table.tex"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=GUARD)


def test_latex_escapes_what_latex_reads_otherwise(finished):
    """Underscores, percent signs and plus-minus."""
    text = tables.render(assemble(finished), "latex")
    assert r"\midrule" in text
    assert r"top1 (\%)" in text
    assert r"73.00 $\pm$ 3.61" in text
    assert text.splitlines()[4] == r"\begin{tabular}{lrrrrrr}"


def test_at_most_three_differing_settings_are_named(finished):
    """A note names three settings and counts the rest; runs of another task are not mentioned."""
    changes = ["optim.lr=0.9", "optim.weight_decay=0.5", "data.batch_size=7", "trainer.max_steps=9", "out=others"]
    write_run(trials_of(read(finished), changes)[0], 99.0)
    write_run(trials_of(read(finished), ["task=segmentation", "model.name=deeplab", "out=others"])[0], 98.0)
    [note] = notes(assemble(finished, roots=("runs", "others")))
    assert note.count(" is ") == 3
    assert note.endswith(", and 1 more setting")


def test_failed_runs_leave_missing_rows(sweep):
    """A name whose runs all failed still shows its rows, and a note counts the failures."""
    for trial in trials_of(read(sweep))[:2]:
        write_run(trial, 0.0, status="failed")
    found = assemble("ablation")
    assert [(row["seeds"], row["seeds_wanted"]) for row in found.rows] == [(0, 2)]
    assert notes(found) == ["2 runs failed and not counted"]


@pytest.mark.parametrize("name", ["ablation.yaml", "ablation"])
@pytest.mark.parametrize("swept", [True, False])
def test_folds_of_a_sweep_are_one_row(sweep, name, swept):
    """Folds in the sweep file and folds by key=value: 3 and 5 of 8 images each are right, 8 of 16 together."""
    tree = yaml.safe_load(Path(sweep).read_text())
    tree["parameters"] = {"model.deform_layers": {"values": [0]}, "seed": {"values": [4]}}
    folds = ["1/2", "2/2"]
    if swept:
        tree["parameters"]["data.fold"] = {"values": folds}
    Path(sweep).write_text(yaml.safe_dump(tree))
    trials = trials_of(read(sweep)) if swept else [trials_of(read(sweep), [f"data.fold={k}"])[0] for k in folds]
    for number, (trial, right) in enumerate(zip(trials, (3, 5), strict=True)):
        folder = write_run(trial, 100 * right / 8)
        names = tuple(f"{number} {image}" for image in range(8))
        record = ClassificationRecord(names, ("top1",), np.arange(8)[None] < right)
        image_records.write(folder / "test_images.npz", record)
    found = assemble(name)
    assert "data.fold" not in found.swept
    assert [(row["top1"], row["seeds"], row["seeds_wanted"]) for row in found.rows] == [(50.0, 1, 1)]


@pytest.mark.parametrize("name", ["ablation.yaml", "ablation"])
def test_seeds_are_expected_once_for_each_commit(sweep, name):
    """Two commits with the same three seeds are complete: 3 of 3 in each row."""
    for trial in trials_of(read(sweep)):
        write_run(trial, 70.0, git="abc")
        write_run(trial, 71.0, git="def", folder=Path("more", "ablation", trial.folder.name))
    found = assemble(name, roots=("runs", "more"))
    assert [(row["seeds"], row["seeds_wanted"]) for row in found.rows] == [(3, 3)] * 6


def test_runs_of_other_settings_are_left_out_by_key(finished):
    """A run with another learning rate does not enter the mean; the note names optim.lr."""
    other = trials_of(read(finished), ["optim.lr=0.9", "out=others"])[0]
    write_run(other, 99.0)
    found = assemble(finished, roots=("runs", "others"))
    assert_worked_out(found.rows)
    [note] = notes(found)
    assert "left out: others/ablation/" in note
    assert note.endswith("optim.lr is 0.9 there and 0.05 in the table")
    # The settings of the sweep call choose the others.
    assert assemble(finished, "optim.lr=0.9", roots=("runs", "others")).rows[0]["top1"] == 99.0


def test_runs_that_all_differ_from_the_file_are_shown(sweep):
    """Where every run has another max_steps than the sweep file, the table shows them with a note."""
    for trial in trials_of(read(sweep), ["trainer.max_steps=7"]):
        write_run(trial, 50.0)
    found = assemble(sweep)
    assert found.rows[0]["top1"] == 50.0
    [note] = notes(found)
    assert note.endswith("trainer.max_steps is 7 in the runs and 2 in the file")


def test_mixed_settings_are_refused_by_key(sweep):
    """Two runs of one trial with different max_steps: the error names the key and both values."""
    for steps in (7, 8):
        write_run(trials_of(read(sweep), [f"trainer.max_steps={steps}"])[0], 50.0)
    with pytest.raises(ConfigError, match=r"trainer\.max_steps is [78] in runs/.* and [78] in runs/"):
        assemble(sweep)


def test_runs_of_different_commits_have_separate_rows(finished):
    """A note counts the runs of each commit."""
    [last] = [trial for trial in trials_of(read(finished)) if trial.parameters == {"model.deform_layers": 2, "seed": 2}]
    write_run(last, 71.0, git="def-dirty")
    found = assemble(finished)
    [note] = notes(found)
    assert note.startswith(
        "the runs are of different code: abc (8), def-dirty (1); in separate rows by the column code"
    )
    rows = [
        (row["model.deform_layers"], row["code"], row["top1"], row["seeds"], row["seeds_wanted"]) for row in found.rows
    ]
    assert rows[2:] == [(2, "abc", 75.0, 2, 3), (2, "def-dirty", 71.0, 1, 3)]
    # Row 0 is of the other code, and no row to compare with.
    assert [row["top1_difference"] for row in found.rows] == [None, 2.5, 2.0, None]
    assert "def-dirty" in tables.render(found, "markdown")


def test_runs_that_began_with_other_weights_have_separate_rows(sweep):
    """Runs of one setting whose weights' names or hashes differ are neither pooled nor compared."""
    name = "ResNet50_Weights.IMAGENET1K_V1"
    imagenet = ["model.backbone.weights=imagenet", "model.backbone.name=resnet50"]
    for trial in trials_of(read(sweep), imagenet):
        layers, seed = trial.parameters["model.deform_layers"], trial.parameters["seed"]
        # Runs of seed 0 are from before weights were recorded: torchvision's newest, its second.
        weights = None if seed == 0 else {"name": name, "address": "https://x", "sha256": "0" * 64}
        write_run(trial, 70.0 + layers - 10 * (seed == 0), weights=weights)
    found = assemble(sweep, *imagenet)
    rows = [(row["model.deform_layers"], row["weights"], row["top1"], row["seeds"]) for row in found.rows]
    assert rows[:2] == [(0, "IMAGENET1K_V2", 60.0, 1), (0, "IMAGENET1K_V1", 70.0, 2)]
    assert [row["top1_difference"] for row in found.rows][:4] == [None, None, 1.0, 1.0]
    assert "IMAGENET1K_V2 (3), IMAGENET1K_V1 (6); in separate rows" in notes(found)[0]


def test_files_of_one_name_and_other_content_are_told_apart(sweep, tmp_path):
    """A path's hash is part of what tells weights apart."""
    Path("w.pt").write_bytes(b"")
    for trial in trials_of(read(sweep), ["model.backbone.weights=w.pt"]):
        digit = str(trial.parameters["seed"] // 2)
        write_run(trial, 70.0, weights={"name": "w.pt", "address": "/w.pt", "sha256": digit * 64})
    found = assemble(sweep, "model.backbone.weights=w.pt")
    assert [row["weights"] for row in found.rows[:2]] == ["w.pt 00000000", "w.pt 11111111"]


def test_any_code_joins_runs_of_different_commits(finished):
    """Only --any-code averages runs of two commits, and a note counts the runs of each."""
    [last] = [trial for trial in trials_of(read(finished)) if trial.parameters == {"model.deform_layers": 2, "seed": 2}]
    write_run(last, 72.0, git="def")
    found = build_table.assemble(finished, [Path("runs")], any_code=True)
    assert [row["seeds"] for row in found.rows] == [3, 3, 3]
    assert found.rows[2]["top1"] == pytest.approx((80 + 70 + 72) / 3)
    assert notes(found) == ["the runs are of different code: abc (8), def (1); joined by --any-code"]


def test_the_newer_of_two_equal_runs_counts(finished):
    """A trial that was run twice counts once, by its newer results, and a note names both folders."""
    trial = trials_of(read(finished))[0]
    newer = write_run(trial, 100.0, folder=Path("runs/ablation/again"))
    os.utime(newer / "results.json", (2e9, 2e9))
    found = assemble(finished)
    assert found.rows[0]["top1"] == pytest.approx((100 + 72 + 77) / 3)
    assert notes(found) == [f"two runs are the same: {newer} counts, the older {trial.folder} does not"]


def test_failed_runs_do_not_count_and_are_mentioned(finished):
    [last] = [trial for trial in trials_of(read(finished)) if trial.parameters == {"model.deform_layers": 2, "seed": 2}]
    write_run(last, None, status="failed")
    found = assemble(finished)
    assert found.rows[2]["seeds"] == 2
    assert notes(found) == ["1 run failed and not counted"]


def test_a_restarted_diverged_run_is_not_counted_as_failed(finished):
    """A diverged folder next to its restart is left out; one without a restart counts as failed."""
    first = trials_of(read(finished))[0]
    write_run(first, 0.0, status="failed", folder=first.folder.with_name(f"{first.folder.name}.diverged-1"))
    alone = write_run(first, 0.0, status="failed", folder=Path("runs/ablation/gone.diverged-1"))
    found = assemble(finished)
    assert_worked_out(found.rows)
    assert "left out: 1 diverged run that began again in another folder" in notes(found)
    assert any("failed" in note for note in notes(found)), alone


def test_a_name_shows_the_runs_of_that_folder(finished):
    """`dcnlab table NAME` needs no sweep file; seeds of failed runs are missing."""
    found = assemble("ablation")
    assert [row["top1"] for row in found.rows] == [73.0, 75.5, 75.0]
    assert [row["seeds"] for row in found.rows] == [3, 3, 2]


def test_seeds_from_the_command_line_count_as_runs(sweep):
    """Seeds that the sweep file does not list enter the mean."""
    tree = yaml.safe_load(Path(sweep).read_text())
    tree["parameters"] = {"model.deform_layers": {"values": [0]}}
    Path(sweep).write_text(yaml.safe_dump(tree))
    for seed, top1 in ((4, 60.0), (5, 70.0)):
        write_run(trials_of(read(sweep), [f"seed={seed}"])[0], top1)
    for name in ("ablation", sweep):
        [row] = assemble(name).rows
        assert (row["top1"], row["seeds"]) == (65.0, 2), name
    [row] = assemble(sweep, "seed=5").rows
    assert (row["top1"], row["seeds"]) == (70.0, 1)


def test_mapping_values_have_one_column_per_key(sweep):
    """A swept value that sets several keys gives each key its column."""
    tree = yaml.safe_load(Path(sweep).read_text())
    tree["parameters"] = {"model": {"values": [{"deform_layers": 1, "modulated": True}, {"deform_layers": 2}]}}
    Path(sweep).write_text(yaml.safe_dump(tree))
    for trial, top1 in zip(trials_of(read(sweep)), (60.0, 70.0), strict=True):
        write_run(trial, top1)
    rows = assemble(sweep).rows
    assert [(row["model.deform_layers"], row["model.modulated"], row["top1"]) for row in rows] == [
        (1, True, 60.0),
        (2, None, 70.0),
    ]


def test_runs_below_a_folder_named_wandb_are_found(finished):
    """wandb's own folders inside runs are skipped by name; the root's name must not be."""
    Path("wandb").mkdir()
    shutil.move("runs", "wandb/runs")
    assert_worked_out(assemble(finished, roots=("wandb",)).rows)


@pytest.mark.parametrize(
    ("name", "roots", "says"),
    [
        ("ablatoin", ("runs",), "ablatoin is neither a sweep nor the name of runs; there are: ablation"),
        ("ablation.yaml", ("rusn",), "--runs rusn: no such folder"),
        ("ablation.yaml", ("empty",), r"no run of ablation.yaml found; make them with: dcnlab sweep ablation.yaml"),
        ("quickstart", ("empty",), r"no run of quickstart found; make them with: dcnlab sweep quickstart"),
        ("ablatio.yaml", ("runs",), "nearest: ablation.yaml"),
    ],
)
def test_a_table_without_runs_lists_what_exists(finished, name, roots, says):
    """Wrong names and folders name the nearest, or the command that makes the runs."""
    Path("empty").mkdir()
    with pytest.raises(ConfigError, match=says):
        assemble(name, roots=roots)


def test_packaged_paper_values_equal_the_transcription():
    """published.yaml is compared byte for byte with the shared transcription."""
    shared = SHARED / "paper" / "tables.yaml"
    if not shared.is_file():
        pytest.skip("the transcription of the paper's tables is not here")
    packaged = Path(tables.__file__).with_name("published.yaml")
    assert packaged.read_text() == shared.read_text()


def test_class_ious_and_recalls_are_only_in_json(sweep):
    """The Markdown table leaves them out, so that it stays narrow; the JSON has them."""
    for trial in trials_of(read(sweep), []):
        folder = write_run(trial, 50.0)
        results = json.loads((folder / "results.json").read_text())
        results["metrics"] |= {"iou/Sky": 80.0, "ar100": 40.0, "ar_small": 30.0, "ap_small": 20.0}
        RunFolder(folder).write_results(results)
    table = build_table.assemble(sweep, [Path("runs")])
    header = tables.render(table, "markdown").splitlines()[0]
    assert "ap_small (%)" in header
    assert not [name for name in ("iou/Sky", "ar100", "ar_small") if name in header]
    assert json.loads(tables.render(table, "json"))[0]["iou/Sky"] == 80.0


@pytest.fixture
def arms(sweep):
    """A sweep whose rows differ in settings of several sections: dilations, and deformable layers at another rate."""
    tree = yaml.safe_load(Path(sweep).read_text())
    values = [
        {"model": {"deform_layers": layers, "dilation": dilation}, "optim": {"lr": rate}}
        for layers, dilation, rate in ((0, 1, 0.1), (0, 4, 0.1), (2, 1, 0.4))
    ]
    tree["parameters"] = {"arm": {"values": values}, "seed": {"values": [0, 1]}}
    Path(sweep).write_text(yaml.safe_dump(tree))
    scores = {(0, 1): (70, 72), (0, 4): (74, 74), (2, 1): (75, 79)}
    for trial in trials_of(read(sweep)):
        row = (trial.config.model.deform_layers, trial.config.model.dilation)
        assert trial.config.optim.lr == (0.4 if row[0] else 0.1)
        assert set(trial.parameters) == {"model.deform_layers", "model.dilation", "optim.lr", "seed"}
        write_run(trial, scores[row][trial.config.seed])
    return sweep


def test_an_arm_sets_keys_of_several_sections(arms):
    """Each arm is a row, named by its keys; rows of different learning rates are compared."""
    found = assemble(arms)
    assert found.swept == ["model.deform_layers", "model.dilation", "optim.lr"]
    assert [(row["top1"], row["top1_difference"]) for row in found.rows] == [(71, None), (74, 3), (77, 6)]


def test_rows_are_compared_against_the_row_asked_for(arms):
    """--against names the row by its settings; a value that no row has is refused with those that rows have."""
    options = Options(against=(("model.deform_layers", 0), ("model.dilation", 4)))
    found = build_table.assemble(arms, [Path("runs")], options=options)
    assert [row["top1_difference"] for row in found.rows] == [-3, None, 3]
    assert [row["base"] for row in found.rows] == [False, True, False]
    with pytest.raises(ConfigError, match=r"--against model.dilation=8: no row .*; there are: model.dilation=1, "):
        build_table.assemble(arms, [Path("runs")], options=Options(against=(("model.dilation", 8),)))


@pytest.mark.parametrize(
    ("parameters", "line"),
    [
        ({"arm": {"values": [4]}}, "parameter arm is 4; it must be a mapping"),
        ({"arm": {"values": [{"seed": 1}]}, "seed": {"values": [0]}}, "parameter arm sets seed, which another"),
        ({"arm": {"values": [{"model": {"dilatio": 1}}]}}, "no such key model.dilatio; nearest: model.dilation"),
    ],
)
def test_a_wrong_arm_is_refused(sweep, parameters, line):
    """One line says what is wrong with the arm, before any trial starts."""
    tree = yaml.safe_load(Path(sweep).read_text()) | {"parameters": parameters}
    Path(sweep).write_text(yaml.safe_dump(tree))
    with pytest.raises(ConfigError, match=r"^[^\n]*$") as error:
        trials_of(read(sweep))
    assert line in str(error.value)


def test_csv_holds_every_value_in_full():
    """Columns stand in the order of their first occurrence; text is quoted, and missing values and NaN are empty."""
    rows = [{"run": "a,b", "ap": 0.1 + 0.2, "seed": 1}, {"run": 'say "hi"', "ap": math.nan, "parts": [1, {"z": 2}]}, {}]
    assert render.render(rows, [], "csv") == (
        'run,ap,seed,parts\n"a,b",0.30000000000000004,1,\n"say ""hi""",,,"[1, {""z"": 2}]"\n,,,'
    )
