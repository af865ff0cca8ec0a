"""`dcnlab visualize`: what is drawn where, of which units, and into which files."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import dcnlab
from matplotlib.colors import to_hex
from PIL import Image

from dcnlab.ablations.analysis import figures
from dcnlab.ablations.analysis.figure_subjects import Subject
from dcnlab.ablations.analysis.figure_units import units_of
from dcnlab.ablations.analysis.figures import draw
from dcnlab.ablations.analysis.grid import Grid
from dcnlab.ablations.analysis.tracing import DeformedLayer
from dcnlab.ablations.plots import image_panels, style
from dcnlab.config.load import load_experiment
from dcnlab.io.errors import ConfigError
from dcnlab.training.run import fit


def layer(height, width, stride=8):
    grid = Grid((stride, stride))
    offset = torch.zeros(1, 18, height, width)
    return DeformedLayer("x", (3, 3), (1, 1), (1, 1), (1, 1), offset, grid, (height, width), grid, ())


def subject(height, width, boxes=(), regions=None, file_size=None):
    picture = Image.new("RGB", (width, height))
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    names = [f"class {number}" for number in range(len(boxes))]
    image = torch.zeros(3, height, width)
    return Subject("s", image, picture, file_size or (height, width), boxes, names, "annotated", regions)


def titled(units):
    return {unit.title: unit.place for unit in units}


def test_figure_units_are_on_objects_and_background():
    """The drawn units: the smallest object, the largest one, and the background farthest from all boxes."""
    seen = subject(80, 160, [[0, 0, 80, 80], [88, 8, 105, 25], [90, 40, 120, 70]])
    # The small one's middle is pixel (16, 96); right of it, above and below the third, is most room.
    found = titled(units_of(seen, layer(10, 20), [], []))
    assert found["small object: class 1"] == (2, 12)
    assert found["large object: class 0"] == (5, 5)
    row, column = found["background"]
    assert 2 <= row <= 7
    assert 15 <= column <= 18


def test_figure_units_for_one_object_and_for_none():
    """With one object over the whole image, only it; without any, the image's middle."""
    assert titled(units_of(subject(80, 80, [[0, 0, 80, 80]]), layer(10, 10), [], [])) == {"object: class 0": (5, 5)}
    assert titled(units_of(subject(80, 80), layer(10, 10), [], [])) == {"the image's middle": (5, 5)}


def test_segmentation_units_are_deep_inside_regions():
    """Each drawn unit has the largest distance to its region's border; ignored pixels hold none."""
    regions = torch.zeros(80, 80, dtype=torch.long)
    regions[0:24, 0:80], regions[40:64, 40:64], regions[70:] = 1, 2, 255
    found = titled(units_of(subject(80, 80, regions=regions), layer(10, 10), [], ["background", "road", "sign"]))
    assert found["sign"] == (6, 6)
    assert found["road"][0] == 1
    assert 1 <= found["road"][1] <= 8
    assert regions[8 * found["background"][0], 8 * found["background"][1]] == 0
    plain = titled(units_of(subject(80, 80, regions=regions), layer(10, 10), [], ["sky", "road", "sign"]))
    assert list(plain) == ["sign", "sky", "road"]


def test_at_takes_pixels_of_the_file():
    """The network sees the file at twice its size; x,y count in the file's pixels."""
    seen = subject(80, 160, file_size=(40, 80))  # enlarged twice
    named = units_of(seen, layer(10, 20), ["20,12", "79.5,39"], [])
    assert titled(named) == {
        "at 20,12": (3, 5),
        "at 79.5,39": (9, 19),
    }
    for text, says in (
        ("80,3", r"outside the image: x must be below 80, y below 40"),
        ("8", "must be x,y"),
        ("a,b", "x"),
    ):
        with pytest.raises(ConfigError, match=says):
            units_of(seen, layer(10, 20), [text], [])


def scatters(figure):
    """Of each panel: title, and places (x, y) of its red and its green marks."""
    found = []
    for axis in figure.axes:
        marks = {to_hex(one.get_facecolor()[0]): np.asarray(one.get_offsets()) for one in axis.collections}
        found.append((axis.get_title(), marks[style.RED], marks[style.GREEN]))
    return found


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were written."""
    kept = []
    real = style.encode
    monkeypatch.setattr(style, "encode", lambda figure, ending: kept.append(figure) or real(figure, ending))
    return kept


def test_sampling_locations_are_drawn_where_filters_look(run, set_offsets, drawn, tmp_path):
    """Stride 8, dilation 2, two layers: steps of 16 pixels; the last one's filters moved by half a unit."""
    set_offsets([0.5, 0.0] * 9)
    draw(run, "test:1", tmp_path / "a.png", at=["24,24", "2,45"])
    (figure,) = drawn
    steps = [-32, -16, 0, 16, 32]
    for (title, red, green), (name, x, y) in zip(scatters(figure), (("24,24", 24, 24), ("2,45", 0, 40)), strict=True):
        assert title == f"at {name}"
        assert green.tolist() == [[x, y]]
        # The map's units are at 0 to 40; zeros are read from 8 pixels beyond.
        expected = {
            (x + dx + ex, y + dy + ey + 4)
            for dx in steps[1:4]
            for dy in steps[1:4]
            for ex in steps[1:4]
            for ey in steps[1:4]
            if -8 < x + dx < 48 and -8 < y + dy + 4 < 48 and -8 < x + dx + ex < 48 and -8 < y + dy + ey + 4 < 48
        }
        assert set(map(tuple, red.tolist())) == expected


def test_offset_arrows_are_in_image_pixels(run, set_offsets, drawn, tmp_path):
    """Arrows have the offsets' length and direction in the image; the heat map covers all units."""
    set_offsets([-0.25, 0.5] * 9)
    paths = draw(run, "test:0", tmp_path / "a.svg", kind="all").paths
    assert [path.name for path in paths] == [f"a-{kind}.svg" for kind in figures.KINDS]
    _, bins, arrows, heat = drawn
    before, last = (axis for axis in arrows.axes if axis.get_title())
    assert (before.get_title(), last.get_title()) == ("layer4.0.conv1", "layer4.0.conv2")
    (quiver,) = last.collections
    assert set(quiver.X.tolist()) == {0, 8, 16, 24, 32, 40}
    length = np.hypot(2, 4)  # -2 and 4 pixels of the image
    np.testing.assert_allclose(quiver.get_array(), length, rtol=1e-6)
    assert (quiver.U / quiver.V)[0] == pytest.approx(-2)
    assert quiver.V[0] < 0 < quiver.U[0]  # up in the picture, whose y grows downwards
    assert not before.collections[0].U.any()
    image = heat.axes[0].images[-1]
    assert list(image.get_extent()) == [-12, 52, 52, -12]  # a unit more on each side: up to the image's edges
    np.testing.assert_allclose(image.get_array(), 1)  # times the layer's own dilation
    assert image.norm(1) == pytest.approx(0.5)
    assert heat.axes[0].get_title() == "layer4.0.conv1, dilation 2"
    box, *rest = bins.axes[0].patches[::-1]
    assert to_hex(box.get_edgecolor()) == style.YELLOW
    assert len(rest) == 49
    assert {to_hex(one.get_edgecolor()) for one in rest} == {style.RED}
    left = min(one.get_x() for one in rest)
    assert left == pytest.approx(box.get_x(), abs=0.51)  # zero offsets: bins fill the box of whole pixels


def test_figure_files_are_deterministic_in_each_format(run, tmp_path):
    """The file's ending sets PNG, PDF or SVG, and a second drawing gives the same bytes."""
    field = ("layer", (-4.0, 44.0, 44.0, -4.0), np.arange(36.0).reshape(6, 6))
    starts = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}
    for ending, start in starts.items():
        assert draw(run, "test:0", tmp_path / f"a.{ending}", "dilation").paths[0].read_bytes().startswith(start)
        one, two = (
            style.encode(image_panels.heat(Image.new("RGB", (48, 48)), [field], np.zeros((0, 4))), ending)
            for _ in range(2)
        )
        assert one == two
    assert {path.name for path in tmp_path.iterdir()} == {"run", *(f"a.{ending}" for ending in starts)}


def test_figures_are_saved_in_the_run_folder_by_default(run, tmp_path, monkeypatch):
    """A photo of any size can be drawn; a figure of an RoI below the score says so above it."""
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90), np.uint8)).save(tmp_path / "photo.png")
    drawn = draw(run, str(tmp_path / "photo.png"))
    path = run / "figures" / "photo-sampling.png"
    assert drawn.paths == [path]
    assert "the network's own output is shown" in drawn.notes[0]
    with Image.open(io.BytesIO(path.read_bytes())) as picture:
        assert picture.width > 400
    titles, drawing = [], image_panels.rois

    def noted(picture, regions):
        titles.extend(title for title, _, _ in regions)
        return drawing(picture, regions)

    monkeypatch.setattr(image_panels, "rois", noted)
    drawn = draw(run, "test:2", kind="rois", score=1.0)
    assert len(titles) == 1
    assert re.fullmatch(r"no RoI of score 1 or more; \w+, score 0\.\d\d", titles[0])
    assert drawn.paths == [run / "figures" / "test-2-rois.png"]
    assert drawn.notes == ["no RoI scores 1 or more; the best one is shown"]


def test_photos_are_drawn_upright_unless_exif_is_ignored(run, tmp_path):
    """A unit's x and y must lie in the rotated image, or in the stored one with data.exif=ignore."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (90, 60)).save(tmp_path / "photo.jpg", exif=exif)
    assert draw(run, str(tmp_path / "photo.jpg"), at=["59,89"]).paths
    with pytest.raises(ConfigError, match="x must be below 60, y below 90"):
        draw(run, str(tmp_path / "photo.jpg"), at=["89,59"])
    with pytest.raises(ConfigError, match="x must be below 90, y below 60"):
        draw(run, str(tmp_path / "photo.jpg"), at=["59,89"], overrides=["data.exif=ignore"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"image": "test:5"}, "test:5: the test split has 5 images, test:0 to test:4"),
        ({"image": "tst:0"}, "no such image: tst:0; nearest: test:0"),
        ({"image": "config.yaml"}, "config.yaml cannot be read as an image"),
        ({"out": "a.pgn"}, "--out is 'a.pgn'; figures end in .png, .pdf or .svg; nearest: a.png"),
        ({"out": "nowhere/a.png"}, "--out is 'nowhere/a.png', and there is no folder 'nowhere'"),
        ({"kind": "sample"}, "--kind is 'sample'; nearest: sampling"),
        ({"layers": 0}, "--layers is 0; it must be from 1 to 6"),
        ({"score": 2.0}, "--score is 2; it must be from 0 to 1"),
    ],
)
def test_wrong_figure_arguments_are_one_line(run, monkeypatch, arguments, says):
    """Wrong images, outputs and kinds each give one line and write no figure."""
    monkeypatch.chdir(run)
    arguments = {"image": "test:0", **arguments}
    if "out" in arguments:
        arguments["out"] = Path(arguments["out"])
    with pytest.raises(ConfigError) as caught:
        draw(run, **arguments)
    assert str(caught.value).startswith(says)
    assert "\n" not in str(caught.value)
    assert not (run / "figures").exists()


def test_segmentation_and_classification_runs_are_drawn_too(tiny, drawn):
    common = [
        "logger.wandb=false",
        "model.deform_layers=2",
        "test.pictures=0",
        "trainer.max_steps=1",
        "data.image_size=56",
    ]
    for task, model in (("segmentation", "deeplab"), ("classification", "resnet")):
        narrow = ["model.head_channels=16", "data.digits=1"] if task == "segmentation" else []
        overrides = [f"task={task}", f"model.name={model}", f"id={task}", *narrow, *common]
        run = fit(load_experiment(tiny, overrides))
        draw(run, "test:0")
        titles = [axis.get_title() for axis in drawn[-1].axes]
        assert len(titles) == 2  # the one digit, and off it
        assert titles[-1] == "background"
        with pytest.raises(ConfigError, match="has no deformable RoI pooling"):
            draw(run, "test:0", kind="rois")
    plain = fit(load_experiment(tiny, ["id=plain", *common, "model.deform_layers=0"]))
    with pytest.raises(ConfigError, match=r"has no deformable layer: its model\.deform_layers is 0"):
        draw(plain, "test:0", kind="all")


def test_visualize_prints_the_paths_of_its_files(run, tmp_path):
    """An unknown ending gives exit status 2 and lists the endings that work."""
    done = dcnlab("visualize", run, "test:0", "--out", tmp_path / "a.pdf", "--at", "3,4", "--at", "5,6", "--layers", 1)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'a.pdf'}\n")
    done = dcnlab("visualize", run, "test:0", "--out", tmp_path / "a.jpg")
    assert (done.returncode, done.stdout) == (2, "")
    assert "figures end in .png, .pdf or .svg" in done.stderr.splitlines()[-1]
