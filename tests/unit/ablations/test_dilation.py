"""`dcnlab dilation`: effective dilation of a run's layers over its test set, as its offsets are set by hand."""

import csv
import io
import json
import math
from pathlib import Path

import pytest
import torch
from command_line import dcnlab

from dcnlab.ablations.analysis.dilation_evidence import assemble
from dcnlab.ablations.analysis.effective_dilation import _count, measure, table
from dcnlab.ablations.analysis.grid import Grid
from dcnlab.ablations.analysis.placed_maps import Truth, boxes_of, place
from dcnlab.ablations.analysis.tracing import DeformedLayer
from dcnlab.ablations.tables.render import render
from dcnlab.config.load import load_experiment
from dcnlab.io.errors import ConfigError
from dcnlab.metrics.dilation_sizes import SIZES
from dcnlab.metrics.effective_dilation import Spread
from dcnlab.training.run import fit, restore


def counted(run):
    """Positions of the 6x6 map of stride 8 in boxes, all small at this size, and in none; by the boxes' definition."""
    data = restore(run, [])[1].data.test
    inside = 0
    for index in range(len(data)):
        boxes = data[index][1]["boxes"].tolist()
        for y in range(0, 48, 8):
            for x in range(0, 48, 8):
                inside += any(x1 <= x + 0.5 < x2 and y1 <= y + 0.5 < y2 for x1, y1, x2, y2 in boxes)
    return inside, 36 * len(data) - inside


def test_zero_offsets_give_the_dilation_of_the_layer(run):
    """Mean 2, std 0, and the counts inside and outside the boxes, counted separately."""
    found = measure(run)
    inside, outside = counted(run)
    assert 0 < inside < outside
    assert [row["layer"] for row in found.rows] == ["layer4.0.conv2", "layer4.0.conv1"]
    for row in found.rows:
        assert row["dilation"] == 2
        assert row["small"] == {"mean": 2, "std": 0, "count": inside}
        assert row["background"] == {"mean": 2, "std": 0, "count": outside}
        assert row["medium"] is row["large"] is None
    written = json.loads((run / "dilation.json").read_text())
    assert written["schema"] == 1
    assert written["rows"] == [{key: row[key] for key in row if key != "dilation"} for row in found.rows]


def test_offsets_that_scale_the_grid_scale_the_dilation(run, set_offsets):
    """Offsets of 1.5 times a grid of dilation 2 give an effective dilation of 5 with std 0."""
    set_offsets([value for i in (-1, 0, 1) for j in (-1, 0, 1) for value in (i * 2 * 1.5, j * 2 * 1.5)])
    last, before = measure(run).rows
    assert last["small"]["mean"] == last["background"]["mean"] == pytest.approx(5, abs=1e-6)
    assert last["small"]["std"] == pytest.approx(0, abs=1e-6)
    assert before["small"]["mean"] == 2


def test_sides_and_image_count_are_configurable(run):
    """Other sides change the size class; a note says that 2 of 5 images were measured."""
    found = measure(run, sides=(4, 1000), images=2)
    assert found.rows[0]["small"] is None
    assert found.rows[0]["medium"]["count"] > 0
    assert found.images == 2
    assert "only the first 2 of 5 test images" in found.notes


def test_size_classes_follow_the_chosen_pixel_scale():
    """Original or resized areas choose the class; positions in the padding beyond the image count nowhere."""
    # A file of 24x32 pixels comes to the network at twice the size, padded to 64x64, as a map of stride 16: centres at
    # 0.25, 8.25, 16.25 and 24.25 pixels of the file, the last row beyond its edge. The box of 17x20 holds nine.
    layer = DeformedLayer(
        "x", (3, 3), (1, 1), (1, 1), (1, 1), torch.zeros(1, 18, 4, 4), Grid((16, 16)), (4, 4), Grid((16, 16)), ()
    )
    box = torch.tensor([[0.0, 0.0, 20.0, 17.0]])
    truth = Truth(24, 32, box, torch.tensor([340.0]), torch.tensor([False]))
    for areas, size in (("original", "small"), ("resized", "medium")):
        spreads = {name: Spread() for name in SIZES}
        _count(spreads, place(layer, torch.zeros(3, 48, 64), truth, 0), truth, areas, (20, 50))
        assert {name: spread.count for name, spread in spreads.items() if spread.count} == {size: 9, "background": 3}


def test_boxes_get_means_here_and_on_another_image():
    """Hand-worked: two images of 16x16, the second twice as wide; each box takes the filters whose centres it holds."""
    layer = DeformedLayer(
        "x", (3, 3), (1, 1), (1, 1), (2, 2), torch.zeros(1, 18, 2, 2), Grid((8, 8)), (2, 2), Grid((8, 8)), ()
    )
    crowd = torch.tensor([False])
    narrow = Truth(16, 16, torch.tensor([[0.0, 0.0, 4.0, 16.0]]), torch.tensor([64.0]), crowd)
    wide = Truth(16, 32, torch.tensor([[0.0, 0.0, 1.0, 8.0]]), torch.tensor([8.0]), crowd)
    maps = [place(layer, torch.zeros(3, 16, 16), truth, index) for index, truth in enumerate((narrow, wide))]
    assert maps[1].x.tolist() == [1, 17]  # 0.5 and 8.5 of the input, at half the file's width
    for placed, values in zip(maps, ([[1, 2], [3, 4]], [[5.0, 6], [7, 8]]), strict=True):
        placed.values.copy_(torch.tensor(values))
    boxes = boxes_of({"x": maps}, [narrow, wide])
    assert (boxes.plain.tolist(), boxes.image.tolist(), boxes.area.tolist()) == ([2], [0, 1], [64, 8])
    assert boxes.real[0].tolist() == pytest.approx([2, float("nan")], nan_ok=True)  # 0 <= x < 4; and 1 is not below 1
    # The first box, 8 wide there, holds 5 and 7. The second, 0 to 0.5 here, holds no centre: 0.5 is not below 0.5.
    assert boxes.moved[0].tolist() == pytest.approx([6, float("nan")], nan_ok=True)
    assert boxes.background[0].tolist() == [3, 6.5]


def test_boxes_on_other_images_give_the_mean_over_them():
    """Of four images, each box's null is the mean of the three others' means; a box without a centre gives NaN."""
    layer = DeformedLayer(
        "x", (3, 3), (1, 1), (1, 1), (1, 1), torch.zeros(1, 18, 2, 2), Grid((8, 8)), (2, 2), Grid((8, 8)), ()
    )
    two = torch.tensor([[0.0, 0.0, 16.0, 8.0], [1.0, 1.0, 2.0, 2.0]])
    truth = [Truth(16, 16, two, torch.tensor([128.0, 1.0]), torch.tensor([False, False])) for _ in range(4)]
    maps = [place(layer, torch.zeros(3, 16, 16), image, index) for index, image in enumerate(truth)]
    for value, placed in zip((1.0, 2.0, 4.0, 8.0), maps, strict=True):
        placed.values.copy_(torch.tensor([[value, value + 2], [99, 99]]))
    boxes = boxes_of({"x": maps}, truth)
    assert boxes.real[0, ::2].tolist() == [2, 3, 5, 9]
    assert boxes.moved[0, ::2].tolist() == pytest.approx([17 / 3, 16 / 3, 14 / 3, 10 / 3])
    assert torch.tensor(boxes.moved[0, 1::2]).isnan().all()


def test_claims_of_constant_offsets_have_no_conclusion(run, set_offsets):
    """A grid of 5 in units of 2 gives size 0; depth is 5/2 - 2/2; one seed allows no verdict."""
    set_offsets([value for i in (-1, 0, 1) for j in (-1, 0, 1) for value in (i * 2 * 1.5, j * 2 * 1.5)])
    measure(run)
    rows, blocks, _ = assemble([run])
    by_claim = {(row["claim"], row["layer"]): row for row in rows}
    for claim in ("size", "null", "excess"):
        assert by_claim[claim, "layer4.0.conv2"]["estimate"] == pytest.approx(0, abs=1e-6)
    assert by_claim["depth", "layer4.0.conv2"]["estimate"] == pytest.approx(1.5)
    assert by_claim["depth", "layer4.0.conv2"]["verdict"] == "no conclusion"
    assert json.loads(render(rows, blocks, "json")) == rows


def test_one_moved_point_gives_the_hand_worked_mean(run, set_offsets):
    """The middle point moves by 2; JSON, CSV and the table show the mean next to the paper's."""
    # The middle goes 2 to the right at dilation 2: 4 on its left, 0 on its right, sqrt(8) above and below.
    set_offsets([0.0] * 9 + [2.0] + [0.0] * 8)
    expected = (8 * 2 + 4 + 0 + 2 * math.sqrt(8)) / 12
    rows, blocks = table(measure(run))
    assert rows[0]["small_mean"] == pytest.approx(expected, abs=1e-6)
    assert (rows[0]["paper_layer"], rows[0]["paper_large_mean"], rows[0]["paper_large_std"]) == ("res5c", 8.4, 4.5)
    assert rows[1]["paper_layer"] == "res5b"
    ours = f"{expected:.2f} ± 0.00"
    markdown = render(rows, blocks, "markdown")
    assert ours in markdown
    assert "8.4 ± 4.5" in markdown
    assert ours.replace("±", r"$\pm$") in render(rows, blocks, "latex")
    read = list(csv.DictReader(io.StringIO(render(rows, blocks, "csv"))))
    assert float(read[0]["small_mean"]) == rows[0]["small_mean"]
    assert read[0]["medium_mean"] == ""
    assert json.loads(render(rows, blocks, "json")) == rows


def test_nonfinite_offsets_are_refused_without_a_file(run, set_offsets):
    """The error names the parameter, and no dilation.json is written."""
    set_offsets([float("nan")] * 18)
    with pytest.raises(ConfigError, match=r"layer4\.0\.conv2\.offset_conv\.bias is not finite; the training diverged"):
        measure(run)
    assert not (run / "dilation.json").exists()


def test_dilation_prints_its_table_and_refuses_wrong_options(run):
    """Markdown goes to stdout; each wrong option gives one line and exit status 2."""
    done = dcnlab("dilation", run, "--images", "2", "--format", "markdown")
    assert done.returncode == 0, done.stderr
    assert "| layer4.0.conv2 |" in done.stdout
    assert "2.00 ± 0.00" in done.stdout
    done = dcnlab("dilation", run, "--sides", "96")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith("dcnlab: --sides is '96'; it must be LOW,HIGH")
    for options, says in (
        ({"areas": "orignal"}, r"--areas is 'orignal'; nearest: original"),
        ({"overrides": ["model.deform_layers=0"]}, "asks for another network"),
    ):
        with pytest.raises(ConfigError, match=says):
            measure(run, **options)


def test_a_run_without_deformable_layers_is_refused(tiny):
    """The message names model.deform_layers, and no dilation.json is written."""
    plain = fit(load_experiment(tiny, ["id=plain", "logger.wandb=false"]))
    with pytest.raises(ConfigError, match=r"has no deformable layer: its model\.deform_layers is 0"):
        measure(plain)
    assert not Path(plain / "dilation.json").exists()


def test_a_classifier_of_digits_is_measured_by_their_boxes(tiny):
    """Digit scenes have boxes, so a classification run can be measured; offsets that hardly learn leave it at 1."""
    slow = ["model.deform_layers=1", "optim.offset_lr_scale=1e-6"]
    run = fit(load_experiment(tiny, ["id=one", "logger.wandb=false", *slow]))
    (row,) = measure(run, images=10).rows
    assert row["small"]["count"] + row["background"]["count"] == 10 * 16
    assert row["small"]["mean"] == pytest.approx(1, abs=0.01)
