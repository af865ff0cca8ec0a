"""Complexity: parameters and multiply-adds counted by hand, the paper's figures as they are, no data asked for."""

import csv
import io
import json
from pathlib import Path

import pytest
import torch
import yaml
from command_line import dcnlab
from locations import ROOT, SHARED
from PIL import Image
from torch import nn
from torchvision.models import ResNet101_Weights

from dcnlab.ablations.analysis import complexity, timing
from dcnlab.ablations.tables import render
from dcnlab.io.errors import ConfigError

DEEPLABS = ["segmentation/deeplab_voc", "segmentation/deeplab_cityscapes"]


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes experiment files into an empty folder."""
    monkeypatch.chdir(tmp_path)

    def one(name="one", **tree):
        Path(f"{name}.yaml").write_text(yaml.safe_dump({"trainer": {"max_steps": 1}, **tree}))
        return f"{name}.yaml"

    return one


@pytest.fixture
def slim(write):
    """The smallest network there is, on embedded digits."""
    backbone = {"name": "resnet10_slim"}
    return write("slim", data={"name": "digits", "image_size": 56}, model={"dilation": 1, "backbone": backbone})


@pytest.fixture(scope="module")
def deeplabs():
    """Of the paper's two DeepLab experiments, whose files state no folder of data."""
    return complexity.assemble(DEEPLABS)


def test_deeplab_parameters_equal_a_count_by_hand(deeplabs):
    """Frozen norms and stages count as well; torchvision's documented total is the start of the count."""
    # torchvision's documented 44,549,160 with its classifier of 1000 classes; 2048 to 1024 and to 21 and 19 classes.
    features = 44_549_160 - (2048 * 1000 + 1000)
    plain = [features + 2048 * 1024 + 1024 + 1024 * classes + classes for classes in (21, 19)]
    # Three layers of 512 channels, each with an offset convolution 3x3 to 18 channels.
    three = 3 * (512 * 9 * 18 + 18)
    assert [row["params"] for row in deeplabs.rows] == [plain[0], plain[0] + three, plain[1], plain[1] + three]
    assert [row["params_difference"] for row in deeplabs.rows] == [None, three, None, three]
    thawed = complexity.assemble(DEEPLABS[:1], ["model.backbone.freeze_norm=false", "model.backbone.freeze_at=0"])
    assert [row["params"] for row in thawed.rows] == [plain[0], plain[0] + three]


def test_default_image_sizes_are_those_of_the_data_sets(deeplabs):
    """VOC counts at 360x480 and Cityscapes at 1024x2048; a note names the classes used."""
    assert [(row["height"], row["width"], row["classes"]) for row in deeplabs.rows[::2]] == [
        (360, 480, 21),
        (1024, 2048, 19),
    ]
    assert "deeplab_voc: data.root is null; counted with the 21 classes of voc" in deeplabs.notes


def test_macs_equal_a_count_by_hand(slim):
    """ResNet-10 slim, with the offset convolutions of three deformable layers."""
    stem = 28 * 28 * 16 * 3 * 9
    blocks = 28 * 28 * 16 * (16 + 16) * 9
    for side, before, after in ((14, 16, 24), (7, 24, 32), (7, 32, 48)):
        blocks += side * side * after * ((before + after) * 9 + before)  # two 3x3 convolutions and the shortcut
    plain = stem + blocks + 48 * 10
    # An offset convolution to 18 channels, from as many as the last three 3x3 convolutions read; sampling is free.
    offsets = 7 * 7 * 18 * (32 + 32 + 48) * 9
    assert [row["macs"] for row in complexity.assemble([slim]).rows] == [plain, plain + offsets]
    assert complexity.assemble([slim], size=(112, 112)).rows[0]["macs"] == 4 * (plain - 480) + 480


def test_resnet101_counts_equal_torchvisions_documented_ones(write):
    """Parameters exactly, MACs to the printed digits."""
    data = {"name": "imagefolder", "image_size": 224, "classes": [str(number) for number in range(1000)]}
    plain, _ = complexity.assemble([write(data=data, model={"backbone": {"name": "resnet101"}})]).rows
    documented = ResNet101_Weights.IMAGENET1K_V2.meta
    assert plain["params"] == documented["num_params"]
    assert plain["macs"] / 1e9 == pytest.approx(documented["_ops"], abs=6e-4)


def test_the_detector_head_is_counted_at_every_proposal(write):
    """20 more proposals add 20 times the MACs of the head, with and without deformable pooling."""
    data = {"name": "voc", "classes": ["a", "b"], "shorter_side": 64, "longer_side": 96}
    model = {"name": "faster_rcnn", "backbone": {"name": "resnet18"}}
    experiment = write(task="detection", data=data, model=model)
    few, many = (complexity.assemble([experiment], [f"model.rpn.proposals={number}"]).rows for number in (10, 30))
    head = 256 * 49 * 1024 + 1024 * 1024 + 1024 * 3 + 1024 * 4 * 3
    shifts = 256 * 49 * 98  # deformable pooling's fully connected layer
    assert [b["macs"] - a["macs"] for a, b in zip(few, many, strict=True)] == [20 * head, 20 * (head + shifts)]
    assert [row["proposals"] for row in few] == [10, 10]
    assert [row["deform_pooling"] for row in few] == [False, True]
    assert few[1]["params_difference"] == shifts + 98 + 3 * (512 * 9 * 18 + 18)


def test_paper_values_stand_next_to_the_right_network(deeplabs):
    """Each value of table 4 equals the transcription, and unconfirmed ones are marked."""
    path = SHARED / "paper" / "tables.yaml"
    if not path.is_file():
        pytest.skip("the transcription of the paper's tables is not here")
    table = {row["model"]: row for row in yaml.safe_load(path.read_text())["table4"]["rows"]}
    for at, row in enumerate(deeplabs.rows):
        paper = table[row["experiment"]]
        assert row["paper_params"] == paper["params"][at % 2] * 1e6
        assert row["paper_params_difference"] == row["params"] - paper["params"][at % 2] * 1e6
        assert row["paper_network_seconds"] == paper["net_forward"][at % 2]
        assert row["paper_total_seconds"] == paper["runtime"][at % 2]
    # Of Cityscapes the deformable network's time and both totals are unconfirmed; of VOC nothing is.
    assert [row["paper_unconfirmed"] for row in deeplabs.rows] == ["", "", "runtime", "net_forward runtime"]


@pytest.mark.parametrize("override", ["name=deeplab_mine", "model.backbone.name=resnet50"])
def test_other_networks_have_no_paper_values(override):
    """Another name or backbone leaves the columns of the paper empty."""
    for row in complexity.assemble(DEEPLABS[:1], [override]).rows:
        assert row["paper_params"] is row["paper_params_difference"] is None
        assert row["paper_network_seconds"] is row["paper_total_seconds"] is None


def test_other_layer_counts_have_no_paper_values():
    """With six deformable layers only the plain row keeps the paper's value."""
    plain, deformable = complexity.assemble(DEEPLABS[:1], ["model.deform_layers=6"]).rows
    assert plain["paper_params"] == 46_000_000
    assert (deformable["deform_layers"], deformable["paper_params"]) == (6, None)


def test_classes_are_counted_from_the_data_folder(write):
    """An image folder of three classes gives a classifier of three outputs."""
    for split in ("train", "test"):
        for name in ("cat", "dog", "owl"):
            folder = Path("pictures", split, name)
            folder.mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(folder / "0.png")
    data = {"name": "imagefolder", "root": "pictures", "val": "test", "image_size": 32}
    rows = complexity.assemble([write(data=data, model={"backbone": {"name": "resnet10_slim"}})]).rows
    assert [row["classes"] for row in rows] == [3, 3]


def test_csv_and_json_have_exact_counts(deeplabs):
    """Only the tables for readers round to millions."""
    blocks = complexity.blocks(deeplabs)
    assert json.loads(render.render(deeplabs.rows, blocks, "json")) == deeplabs.rows
    lines = list(csv.DictReader(io.StringIO(render.render(deeplabs.rows, blocks, "csv"))))
    assert [line["params"] for line in lines] == [str(row["params"]) for row in deeplabs.rows]
    assert (lines[0]["params_difference"], lines[1]["params_difference"]) == ("", "248886")


def test_unconfirmed_paper_values_carry_a_question_mark(deeplabs):
    """The caption names the paper's GPU, and a note says that times are not to be compared."""
    caption, text = render.render(deeplabs.rows, complexity.blocks(deeplabs), "markdown").split("\n\n")
    assert "the paper's times: Titan X (Maxwell)" in caption
    header, _, *lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    found = [dict(zip(header, line, strict=True)) for line in lines]
    assert [line["paper: network (s)"] for line in found] == ["0.084", "0.088", "0.610", "0.656 ?"]
    assert [line["paper: total (s)"] for line in found] == ["0.094", "0.098", "0.650 ?", "0.696 ?"]
    assert [line["to plain (M)"] for line in found] == ["", "+0.249", "", "+0.249"]
    assert [line["to paper (M)"] for line in found] == ["-1.4", "-1.2", "-1.4", "-1.2"]
    assert "network (s)" not in header
    assert any("not to be compared" in note for note in deeplabs.notes)


def test_seconds_are_medians_without_the_warm_up_pass():
    """By hand: of four timed passes the first, slow one does not count."""
    # Start, prepared, network done, all done, of each pass.
    clock = iter([0, 1, 100, 200, 0, 2, 3, 5, 0, 0, 3, 4, 0, 1, 3, 9])
    found = timing.seconds(nn.Conv2d(3, 2, 1), (32, 32), (40, 40), "cpu", 3, lambda device: next(clock))
    assert found == (2, 5)


def test_timed_images_are_resized_and_normalized():
    """An image of value 0.2 is resized and gets ImageNet's mean and std per channel."""
    grey = torch.full((3, 4, 6), 51, dtype=torch.uint8)  # 0.2
    prepared = timing.prepared(grey, (2, 3))
    assert prepared.shape == (3, 2, 3)
    expected = [(0.2 - mean) / std for mean, std in ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))]
    torch.testing.assert_close(prepared[:, 0, 0], torch.tensor(expected))


def test_complexity_counts_ten_networks_by_default(write):
    """Without arguments the command counts the paper's table 4, plain and deformable."""
    done = dcnlab("complexity", "--no-time", "--format", "json", "--size", "64x96")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    published = yaml.safe_load((ROOT / "dcnlab/ablations/tables/published.yaml").read_text())["table4"]["rows"]
    assert [row["paper_params"] for row in rows] == [round(1e6 * n) for row in published for n in row["params"]]
    assert [row["experiment"].removesuffix("_voc") for row in rows[4::2]] == ["class_aware_rpn", "faster_rcnn", "rfcn"]


def test_a_timed_network_is_announced_before_it_runs(slim):
    """The line names the network, the number of passes and the device."""
    said = []
    found = complexity.assemble([slim], device="cpu", repeats=1, say=said.append)
    assert said == [f"slim, {kind}: 2 forward passes of 56x56 pixels on cpu" for kind in ("plain", "deformable")]
    for row in found.rows:
        assert 0 < row["network_seconds"] <= row["total_seconds"]
    assert "network (s)" in complexity.blocks(found)[0].header


def test_a_detectors_total_time_includes_nms(write):
    """The total is larger than the network's own time."""
    model = {"name": "rfcn", "head_channels": 32, "backbone": {"name": "resnet10_slim"}}
    experiment = write(task="detection", data={"name": "digits", "image_size": 64}, model=model)
    for row in complexity.assemble([experiment], device="cpu", repeats=1).rows:
        assert 0 < row["network_seconds"] < row["total_seconds"]


@pytest.mark.parametrize(
    ("data", "override", "says"),
    [
        ({"name": "imagefolder"}, "seed=1", "data.classes is null, and only the files of an imagefolder tell"),
        ({"name": "imagefolder", "root": "nowhere"}, "seed=1", "data.root is 'nowhere', and there is no such folder"),
        ({"name": "digits"}, "model.deform_layer=3", "no such key model.deform_layer; nearest: model.deform_layers"),
        ({"name": "digits"}, "model.deform_layers=99", "model.deform_layers is 99"),
    ],
)
def test_settings_that_cannot_be_built_are_one_line(write, data, override, says):
    """The error of `dcnlab complexity` gives the reason without a traceback."""
    with pytest.raises(ConfigError) as error:
        complexity.assemble([write(data=data)], [override])
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_no_experiment_at_all_is_refused():
    with pytest.raises(ConfigError, match="no experiment file named"):
        complexity.assemble([])


def test_data_without_a_usual_size_need_size(write):
    """An image list has no usual size, so --size must state height and width."""
    experiment = write(
        task="segmentation", data={"name": "imagelist", "classes": ["a", "b"]}, model={"name": "deeplab"}
    )
    with pytest.raises(ConfigError, match="no usual size; give one: --size HxW"):
        complexity.assemble([experiment])
    assert complexity.assemble([experiment], size=(64, 96)).rows[0]["width"] == 96


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused(slim):
    with pytest.raises(ConfigError, match="there is no GPU"):
        complexity.assemble([slim], device="cuda")


def test_complexity_prints_rows_and_notes_separately(slim):
    """The JSON on stdout can be parsed; notes go to stderr."""
    done = dcnlab("complexity", slim, "--no-time", "--format", "json", "model.deform_layers=1", "--size", "64x48")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [(row["deform_layers"], row["height"], row["width"]) for row in rows] == [(0, 64, 48), (1, 64, 48)]
    assert "note: " in done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["segmentation/deeplab_vos", "--no-time"], "nearest: segmentation/deeplab_voc"),
        (["slim.yaml", "--device", "cpus"], "--device is 'cpus'; nearest: cpu"),
        (["slim.yaml", "--format", "jason"], "--format is 'jason'; nearest: json"),
    ],
)
def test_wrong_complexity_arguments_are_one_line(slim, words, says):
    """Exit status 2 and a single line on stderr."""
    done = dcnlab("complexity", *words)
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_detectors_are_counted_without_their_rpn_too():
    """By hand: a 3x3 to 512 channels, a score and four deltas for each of nine anchors."""
    # Counted by hand: 3x3 from 1024 to 512, 1x1 to a score and four deltas of each of nine anchors.
    rpn = (9 * 1024 + 1) * 512 + 513 * 9 * 5
    found = complexity.assemble(["detection/rfcn_voc"], size=(64, 96))  # parameters are those of any size
    assert [row["params"] - row["params_without_rpn"] for row in found.rows] == [rpn, rpn]
    assert "without RPN (M)" in complexity.blocks(found)[0].header
    assert "without RPN (M)" not in complexity.blocks(complexity.assemble(["segmentation/deeplab_voc"]))[0].header
