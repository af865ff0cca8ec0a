"""The paper's tables from whatever runs there are: worked-out figures beside the published ones."""

import csv
import io
import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from processes import GUARD

from dcnlab.ablations.tables import build_table
from dcnlab.ablations.tables import table as tables
from dcnlab.io.errors import ConfigError
from dcnlab.training.run_folder import RunFolder

FIT = ["${env}", "dcnlab", "fit", "${program}", "${args_json_file}"]
"""What a sweep's trials run."""

RFCN = {
    "task": "detection",
    "data": {"name": "voc", "root": "VOC", "test": ["2007/test"]},
    "model": {"name": "rfcn", "backbone": {"name": "resnet101"}},
}
CARDS = {**RFCN, "data": {"name": "voc", "root": "cards", "test": "test", "protocol": "voc"}}
CAMVID = {
    "task": "segmentation",
    "data": {"name": "camvid", "root": "CamVid"},
    "model": {"name": "deeplab", "backbone": {"name": "resnet10_slim"}},
}


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes run folders below an empty folder's runs/."""
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()

    def one(base, model, seed, metrics, name="some", git="abc", parameters=None, **changes):
        folder = Path("runs", name, str(len(list(Path("runs").glob("*/*")))))
        folder.mkdir(parents=True)
        tree = {"trainer": {"max_steps": 1}, **base, **changes, "name": name, "seed": seed}
        tree["model"] = {**base["model"], **model}
        (folder / "config.yaml").write_text(yaml.safe_dump(tree))
        results = {
            "schema": 1,
            "name": name,
            "status": "finished",
            "seed": seed,
            "parameters": {f"model.{key}": value for key, value in model.items()} | {"seed": seed} | (parameters or {}),
            "metrics": metrics,
            "model": {"params": 1000, "macs": 2_000_000},
            "cost": {"train_seconds": 10.0},
            "environment": {"git": git, "dcnlab": "1", "torch": "2", "gpu": None},
            "wandb": {"id": None, "sweep": None},
        }
        RunFolder(folder).write_results(results)
        return folder

    return one


@pytest.fixture
def rfcn(write):
    """R-FCN on VOC: layers 0, 1 and 3, the last with one seed of three, and with one of pooling."""
    for layers, scores in {0: (78.0, 80.0, 82.0), 1: (80.0, 81.0, 82.0), 3: (83.0,)}.items():
        for seed, ap50 in enumerate(scores):
            write(RFCN, {"deform_layers": layers}, seed, {"ap50": ap50, "ap70": ap50 - 20, "ap50/aeroplane": 1.0})
    write(RFCN, {"deform_layers": 3, "deform_pooling": True}, 0, {"ap50": 85.0, "ap70": 70.0})


def assemble(name, **options):
    return build_table.assemble(name, [Path("runs")], **options)


def grid(block):
    return [dict(zip(block.header[:5], line[:5], strict=True)) for line in block.lines]


def test_table1_compares_our_values_with_the_papers(rfcn):
    """Means, std, differences and p-values equal a computation by hand next to the paper's row."""
    found = assemble("table1")
    [part] = found.sections
    assert part.title == "rfcn, resnet101, voc"
    rows = {row["model.deform_layers"]: row for row in found.rows}
    assert list(rows) == [0, 1, 2, 3, 6]
    assert (rows[0]["ap50"], rows[0]["ap50_std"], rows[0]["ap50_difference"], rows[0]["base"]) == (
        80.0,
        2.0,
        None,
        True,
    )
    assert (rows[1]["ap50"], rows[1]["ap50_std"], rows[1]["ap50_difference"]) == (81.0, 1.0, 1.0)
    assert rows[1]["ap50_values"] == {"0": 80.0, "1": 81.0, "2": 82.0}
    assert rows[1]["ap50_differences"] == {"0": 2.0, "1": 1.0, "2": 0.0}
    # 2, 1, 0 with any signs: the sum is 3 or more from zero for 2 of 4 sign pairs of 2 and 1, whatever 0's: p = 1/2.
    assert rows[1]["ap50_p"] == 0.5
    assert (rows[3]["ap50"], rows[3]["ap50_std"], rows[3]["ap50_difference"]) == (83.0, None, 3.0)
    assert (rows[3]["seeds"], rows[3]["seeds_wanted"], rows[6]["seeds"], rows[6]["ap50"]) == (1, 3, 0, None)
    # The paper's table 1, R-FCN: 80.0, 80.6, 81.0, 81.4, 81.5.
    assert [row["paper_ap50"] for row in rows.values()] == [80.0, 80.6, 81.0, 81.4, 81.5]
    assert rows[3]["paper_ap50_difference"] == pytest.approx(1.4)
    assert rows[6]["paper_ap70_difference"] == pytest.approx(65.4 - 61.8)
    assert (rows[0]["paper"], rows[0]["paper_differs"]) == ("R-FCN, resnet101, VOC 2007 test", "")
    assert any("1 run of no row of table1" in note for note in found.notes)
    assert any("over 3 seeds" in note and "smallest p is 0.25" in note for note in found.notes)


def test_paper_values_stand_in_the_same_row(rfcn):
    """The header puts each metric's paper value and difference next to ours."""
    [block] = tables.blocks(assemble("table1"), "")
    assert block.header[:6] == [
        "deform_layers",
        "ap50 (%)",
        "difference [low, high]",
        "paper",
        "its difference",
        "ap70 (%)",
    ]
    assert [line[:5] for line in block.lines] == [
        ["0", "80.00 ± 2.00", "", "80.0", ""],
        # Student's t over 2, 1, 0: 1 ± 4.3027 x 1 / sqrt(3), wider than the bootstrap's 0 to 2.
        ["1", "81.00 ± 1.00", "+1.00 [-1.48, +3.48] no conclusion", "80.6", "+0.6"],
        ["2", "missing", "", "81.0", "+1.0"],
        ["3", "83.00", "+3.00", "81.4", "+1.4"],
        ["6", "missing", "", "81.5", "+1.5"],
    ]
    assert [line[9] for line in block.lines] == ["3", "3", "0 of 3 (!)", "1 of 3 (!)", "0 of 3 (!)"]
    assert block.caption == "rfcn, resnet101, voc; paper: R-FCN, resnet101, VOC 2007 test"


def test_table3_separates_atrous_deformable_and_pooling(write):
    """Each combination of dilation, deformable layers and pooling is one row of table 3."""
    for model, ap50 in (
        ({"dilation": 2}, 60.0),
        ({"dilation": None}, 62.0),
        ({"dilation": 4}, 63.0),
        ({"dilation": 8}, 59.0),
        ({"deform_layers": 3}, 64.0),
        ({"deform_pooling": True}, 65.0),
        ({"deform_layers": 3, "deform_pooling": True, "dilation": 2}, 66.0),
        ({"deform_layers": 3, "dilation": 4}, 99.0),
        ({"deform_layers": 1}, 99.0),
    ):
        write(CARDS, model, 1 if model == {"dilation": None} else 0, {"ap50": ap50})
    found = assemble("table3")
    assert [(row["modules"], row["ap50"], row.get("paper_ap50")) for row in found.rows] == [
        ("dilation 2", 61.0, 80.0),
        ("dilation 4", 63.0, 80.5),
        ("dilation 6", None, 80.2),
        ("dilation 8", 59.0, 80.3),
        ("deformable convolution", 64.0, 81.4),
        ("deformable RoI pooling", 65.0, 81.2),
        ("both", 66.0, 82.6),
    ]
    assert found.rows[6]["ap50_difference"] == 5.0
    assert found.rows[6]["paper_ap50_difference"] == pytest.approx(2.6)
    [block] = tables.blocks(found, "")
    assert "its data and metric differ from ours: compare differences, not levels" in block.caption
    assert any("2 runs of no row of table3" in note for note in found.notes)


def test_each_network_has_its_section_and_paper_column(rfcn, write):
    """R-FCN and DeepLab runs in one folder give two sections, each with its own differences."""
    for layers, miou in ((0, 40.0), (3, 42.0)):
        write(CAMVID, {"deform_layers": layers}, 0, {"miou": miou, "iou/Sky": 90.0})
    found = assemble("table1")
    assert [part.title for part in found.sections] == ["deeplab, resnet10_slim, camvid", "rfcn, resnet101, voc"] or [
        part.title for part in found.sections
    ] == ["rfcn, resnet101, voc", "deeplab, resnet10_slim, camvid"]
    [deeplab] = [part for part in found.sections if part.title.startswith("deeplab")]
    assert deeplab.rows[3]["miou_difference"] == 2.0
    assert deeplab.rows[3]["paper_miou_difference"] == pytest.approx(75.2 - 69.7)  # of DeepLab on VOC
    assert deeplab.counterpart.differs == ("data", "backbone")
    assert len(tables.blocks(found, "caption")) == 2
    header, lines = tables.cells(found)
    assert header[0] == "system"
    assert len(lines) == 10
    assert {row["system"] for row in found.rows} == {part.title for part in found.sections}


@pytest.mark.parametrize(
    ("data", "model", "column"),
    [
        ({"name": "cityscapes", "root": "x", "test": "val"}, "deeplab", 70.4),
        ({"name": "voc", "root": "x", "test": "2012/val"}, "deeplab", 69.7),
        ({"name": "voc", "root": "x", "test": "2007/test"}, "class_aware_rpn", 68.0),
        ({"name": "voc", "root": "x", "test": "2007/test"}, "faster_rcnn", 78.1),
        ({"name": "coco", "root": "x", "test": "val2017"}, "rfcn", 80.0),
    ],
)
def test_the_paper_column_fits_network_and_data(write, data, model, column):
    """Each network and data set is compared with its own column of the paper's table 1."""
    segmentation = model == "deeplab"
    base = {"task": "segmentation" if segmentation else "detection", "data": data}
    base["model"] = {"name": model, "backbone": {"name": "resnet101"}}
    metric = "miou" if segmentation else "ap50"
    for layers in (0, 3):
        write(base, {"deform_layers": layers}, 0, {metric: 50.0 + layers})
    [part] = assemble("table1").sections
    assert part.rows[0][f"paper_{metric}"] == column
    assert part.counterpart.differs == (("data", "metric") if data["name"] == "coco" else ())


def test_a_network_the_paper_lacks_has_no_paper_column(write):
    """A ResNet classifier is compared only with plain runs of itself."""
    base = {"data": {"name": "digits"}, "model": {"name": "resnet", "backbone": {"name": "resnet10_slim"}}}
    for layers in (0, 3):
        write(base, {"deform_layers": layers}, 0, {"top1": 50.0 + layers})
    [part] = assemble("table1").sections
    assert part.counterpart is None
    assert part.rows[3]["top1_difference"] == 3.0
    assert not [key for key in part.rows[3] if key.startswith("paper")]


def test_runs_of_different_settings_are_separate_sections(write):
    """Two learning rates give two sections, whose titles name the setting that differs."""
    for lr in (0.1, 0.2):
        for layers in (0, 3):
            write(CAMVID, {"deform_layers": layers}, 0, {"miou": 100 * lr + layers}, optim={"lr": lr})
    parts = assemble("table1").sections
    assert {part.title.rpartition(", ")[2] for part in parts} == {"optim.lr=0.1", "optim.lr=0.2"}
    assert [part.rows[3]["miou_difference"] for part in parts] == [3.0, 3.0]


def test_trials_of_unrelated_searches_are_left_out(rfcn, write):
    """Four runs of a learning-rate search do not enter table 1; a note counts them."""
    for number in range(4):
        parameters = {"optim.lr": 0.1 + number}
        write(CAMVID, {"deform_layers": 3}, 0, {"miou": 1.0}, parameters=parameters, optim={"lr": 0.1 + number})
    found = assemble("table1")
    assert [part.title for part in found.sections] == ["rfcn, resnet101, voc"]
    assert any(note.startswith("left out: 4 runs of other sweeps, such as runs/some/") for note in found.notes)


def test_runs_of_different_commits_have_separate_rows(write):
    """Differences are between rows of the same commit."""
    for layers, git, miou in ((0, "abc", 40.0), (3, "abc", 42.0), (0, "def", 50.0), (3, "def", 51.0)):
        write(CAMVID, {"deform_layers": layers}, 0, {"miou": miou}, git=git)
    rows = [row for row in assemble("table1").rows if row["seeds"]]
    assert [(row["model.deform_layers"], row["code"], row["miou_difference"]) for row in rows] == [
        (0, "abc", None),
        (0, "def", None),
        (3, "abc", 2.0),
        (3, "def", 1.0),
    ]
    joined = assemble("table1", any_code=True)
    assert [(row["seeds"], row["seeds_wanted"]) for row in joined.rows[:2]] == [(1, 1), (0, 1)]
    assert sum("two runs are the same" in note for note in joined.notes) == 2


def test_table5_compares_plain_and_deformable_coco_values(write):
    """Five COCO metrics are shown; R-FCN without deformable pooling is not the deformable row."""
    coco = {**RFCN, "data": {"name": "coco", "root": "COCO", "test": "val2017"}}
    names = ("ap", "ap50", "ap_small", "ap_medium", "ap_large", "ar100")
    for model, scores in (
        ({}, (30.0, 50.0, 10.0, 30.0, 40.0, 1.0)),
        ({"deform_layers": 3}, (99.0,) * 6),  # R-FCN's has deformable pooling too
        ({"deform_layers": 3, "deform_pooling": True}, (34.0, 53.0, 13.0, 34.0, 46.0, 1.0)),
    ):
        write(coco, model, 0, dict(zip(names, scores, strict=True)))
    [part] = assemble("table5").sections
    assert part.shown == ["ap", "ap50", "ap_small", "ap_medium", "ap_large"]
    plain, deformable = part.rows
    assert (plain["network"], plain["ap"], plain["paper_ap"]) == ("plain", 30.0, 30.8)
    assert (deformable["ap"], deformable["ap_difference"], deformable["paper_ap"]) == (34.0, 4.0, 34.5)
    assert deformable["paper_ap_large_difference"] == pytest.approx(50.3 - 44.8)
    assert part.counterpart.title == "R-FCN, resnet101, COCO test-dev"
    assert part.counterpart.differs == ("data",)


def test_table5_uses_the_papers_row_of_the_same_test(write):
    """Aligned-Inception-ResNet with multi-scale test and box rounds is compared with 35.5 AP."""
    coco = {**RFCN, "data": {"name": "coco", "root": "COCO", "test": "val2017"}}
    coco["model"] = {"name": "rfcn", "backbone": {"name": "aligned_inception_resnet"}}
    test = {"shorter_sides": [480, 576, 688, 864, 1200, 1400], "box_rounds": 1}
    write(coco, {}, 0, {"ap": 36.0}, test=test)
    [part] = assemble("table5").sections
    assert part.rows[0]["paper_ap"] == 35.5
    assert part.counterpart.differs == ("data",)


def test_a_paper_table_without_runs_names_the_sweep_command(write):
    """The error holds the `dcnlab sweep` command that makes the runs."""
    with pytest.raises(ConfigError, match=r"no run of table3 found; make some with: dcnlab sweep table3"):
        assemble("table3")


@pytest.mark.parametrize("form", ["csv", "json"])
def test_csv_and_json_have_full_precision(rfcn, form):
    """Each row of the table is one row, with unrounded values and the values of each seed."""
    text = tables.render(assemble("table1"), form)
    rows = json.loads(text) if form == "json" else list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 5
    assert float(rows[3]["paper_ap50_difference"]) == 81.4 - 80.0
    values = rows[1]["ap50_values"]
    assert (values if form == "json" else json.loads(values)) == {"0": 80.0, "1": 81.0, "2": 82.0}


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex")
@pytest.mark.parametrize("name", ["table1", "table3"])
def test_latex_compiles(rfcn, tmp_path, name):
    """pdflatex compiles the table with booktabs and stops at no error."""
    body = tables.render(assemble(name), "latex")
    document = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\\tiny\n" + body + "\n\\end{document}\n"
    (tmp_path / "table.tex").write_text(document)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table.tex"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=GUARD)


def measured(folder, *rows):
    """Writes a run's dilation.json: of each layer a mean for small ones and nothing else."""
    none = dict.fromkeys(("medium", "large", "background"))
    lines = [{"layer": layer, "small": small, **none} for layer, small in rows]
    (folder / "dilation.json").write_text(json.dumps({"schema": 1, "rows": lines}))


def test_table2_averages_dilation_over_seeds(write):
    """Two measured seeds give mean and std next to the paper's layer; an unmeasured run adds none."""
    for seed, mean in ((0, 5.0), (1, 6.0)):
        folder = write(RFCN, {"deform_layers": 2}, seed, {"ap50": 80.0})
        measured(
            folder,
            ("layer4.2.conv2", {"mean": mean, "std": 2.0 + seed, "count": 10}),
            ("layer4.1.conv2", None),
        )
    write(RFCN, {"deform_layers": 1}, 0, {"ap50": 80.0})
    found = assemble("table2")
    last, other = found.rows
    assert (last["layer"], last["seeds"], last["small_mean"], last["small_std"]) == ("layer4.2.conv2", 2, 5.5, 2.5)
    assert (last["small_count"], last["small_seeds_std"]) == (20, 0.5**0.5)
    assert (last["paper_layer"], last["paper_small_mean"], last["paper_background_std"]) == ("res5c", 5.3, 3.0)
    assert (other["small_mean"], other["small_count"], other["paper_layer"]) == (None, 0, "res5b")
    [block] = tables.blocks(found, "")
    assert block.lines[0][3] == "5.50 ± 2.50"
    assert block.lines[1][3] == "none"
    assert "res5c" in tables.render(found, "latex")


def test_tables_2_and_4_name_the_command_that_measures(write):
    """Table 4 needs `dcnlab complexity`, table 2 `dcnlab dilation`."""
    with pytest.raises(ConfigError, match="dcnlab complexity"):
        assemble("table4")
    with pytest.raises(ConfigError, match="dcnlab dilation RUN"):
        assemble("table2")


def sweep_file(parameters, program="rfcn.yaml", **changes):
    base = {**CARDS, "trainer": {"max_steps": 1}}
    Path(program).write_text(yaml.safe_dump(base))
    tree = {"program": program, "command": FIT, "method": "grid", "parameters": parameters, **changes}
    Path("ablation.yaml").write_text(yaml.safe_dump(tree))
    return "ablation.yaml"


def test_a_sweep_of_modules_is_compared_with_table3(write):
    """The user's sweep over layers and pooling gets the paper's column of table 3."""
    values = [
        {"deform_layers": 3, "deform_pooling": True},
        {"deform_layers": 0, "deform_pooling": False},
        {"deform_layers": 0, "deform_pooling": True},
    ]
    name = sweep_file({"model": {"values": values}, "seed": {"values": [0]}})
    for model, ap50 in zip(values, (66.0, 60.0, 63.0), strict=True):
        write(CARDS, model, 0, {"ap50": ap50}, name="ablation")
    found = assemble(name)
    keys = ("ap50_difference", "paper_ap50", "base")
    assert [tuple(row.get(key) for key in keys) for row in found.rows] == [
        (6.0, 82.6, False),
        (None, 80.0, True),  # the row none, though it is not the first
        (3.0, 81.2, False),
    ]
    assert found.rows[0]["paper_ap50_difference"] == pytest.approx(2.6)
    [block] = tables.blocks(found, "")
    assert block.caption.startswith("paper: R-FCN, resnet101, VOC 2007 test; its data")


def test_a_random_search_table_ranks_its_trials(write):
    """Finished trials are listed best first, and a note counts the missing ones."""
    search = {"optim.lr": {"min": 0.001, "max": 0.1}, "seed": {"value": 0}}
    metric = {"name": "test/ap50", "goal": "maximize"}
    name = sweep_file(search, method="random", run_cap=5, metric=metric)
    for lr, ap50 in ((0.01, 50.0), (0.02, 70.0), (0.05, 60.0)):
        write(CARDS, {}, 0, {"ap50": ap50}, name="ablation", parameters={"optim.lr": lr}, optim={"lr": lr})
    found = assemble(name)
    assert [(row["optim.lr"], row["ap50"]) for row in found.rows] == [(0.02, 70.0), (0.05, 60.0), (0.01, 50.0)]
    assert [row["ap50_difference"] for row in found.rows] == [None] * 3
    assert "random search: 3 of 5 trials are finished, best first; the others are missing" in found.notes


def test_six_seeds_show_a_p_corrected_for_the_rows(write):
    """Six equal signs give p = 2 / 2**6; two rows are tested, and Holm's method doubles the smaller p."""
    for seed in range(6):
        for layers in (0, 1, 3):
            write(CAMVID, {"deform_layers": layers}, seed, {"miou": 40.0 + seed + layers / 3})
    found = assemble("table1")
    assert [found.rows[at]["miou_p"] for at in (1, 3)] == [2 / 2**6] * 2
    assert [found.rows[at]["miou_p_holm"] for at in (1, 3)] == [4 / 2**6] * 2
    [block] = tables.blocks(found, "")
    assert block.header[1:4] == ["miou (%)", "difference [low, high]", "p (Holm)"]
    assert block.lines[3][2:4] == ["+1.00 [+1.00, +1.00] better", "0.0625"]
    assert any("corrected for the table's rows" in note for note in found.notes)
