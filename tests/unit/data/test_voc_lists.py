"""VOC's lists: a whole file is names or a class list, and is never silently another image's."""

import logging

import numpy as np
import pytest
from PIL import Image

from dcnlab.data.classification.image_folder import ImageFolderSplit
from dcnlab.data.detection.voc import read_voc
from dcnlab.data.segmentation.voc import voc_pairs
from dcnlab.data.voc_lists import read_names
from dcnlab.io.image_file import ENDINGS, FORMATS
from dcnlab.io.named_files import NamedFiles


def read(tmp_path, text, known):
    path = tmp_path / "list.txt"
    path.write_text(text)
    return [name for _, name in read_names(path, set(known).__contains__)]


@pytest.mark.parametrize(
    ("text", "known", "names"),
    [
        ("a\nb\n", "ab", ["a", "b"]),
        ("a  1\nb -1\n\nc  0\n", "abc", ["a", "c"]),
        ("a 1\nb -1\n", "a", ["a"]),  # who wants the class alone need not keep the other images
        ("a b 1\nc -1\n", ["a b", "c"], ["a b"]),
        ("scan 1\nscan 2\nscan -1\n", ["scan", "scan 1", "scan 2", "scan -1"], ["scan 1", "scan 2", "scan -1"]),
        ("scan 1\nscan -1\n", ["scan", "scan 1", "scan -1"], ["scan 1", "scan -1"]),
        ("scan 1\n", ["scan", "scan 1"], ["scan 1"]),
        ("scan 1 1\nscan 2 -1\n", ["scan 1", "scan 2", "scan"], ["scan 1"]),
        ("scan 1\nscan 7\n", ["scan", "scan 7"], ["scan 1", "scan 7"]),  # the first is missing: for the caller to say
        ("scan 1\n  \nphoto\n", ["scan", "photo"], ["scan 1", "photo"]),
        ("a\t1\nb\t-1\n", "ab", ["a"]),
        ("", "", []),
    ],
)
def test_a_list_holds_names_or_marks_of_one_class(tmp_path, text, known, names):
    """Whether "scan 1" is a name or a mark is decided for the list as a whole."""
    assert read(tmp_path, text, known) == names


@pytest.mark.parametrize(
    ("text", "known", "says"),
    [
        ("scan 1\nphoto 1\n", ["scan", "scan 1", "photo"], "line 2: there is no image 'photo 1', but line 1"),
        ("a 1\nb 1\n", ["a"], "line 2: there is neither an image 'b 1' nor 'b'"),
        ("a 1\na -1\n", ["a"], "line 2 names 'a' again, after line 1"),
    ],
)
def test_a_contradictory_list_is_refused_in_one_line(tmp_path, text, known, says):
    """Mixed names and marks, unknown names and repeated names give their line's number."""
    with pytest.raises(ValueError, match=says) as caught:
        read(tmp_path, text, known)
    assert "\n" not in str(caught.value)


@pytest.fixture
def scans(tmp_path):
    """A VOC-style folder of both tasks, whose names end in numbers; `scan` itself is of the test split."""
    for part in ("JPEGImages", "Annotations", "SegmentationClass", "ImageSets/Main", "ImageSets/Segmentation"):
        (tmp_path / part).mkdir(parents=True)
    for name in ("scan", "scan 1", "scan -1"):
        Image.new("RGB", (40, 30)).save(tmp_path / f"JPEGImages/{name}.jpg")
        Image.fromarray(np.zeros((30, 40), np.uint8)).save(tmp_path / f"SegmentationClass/{name}.png")
        (tmp_path / f"Annotations/{name}.xml").write_text(
            "<annotation><size><width>40</width><height>30</height></size></annotation>"
        )
    for kind in ("Main", "Segmentation"):
        (tmp_path / f"ImageSets/{kind}/train.txt").write_text("scan 1\nscan -1\n")
    return tmp_path


def test_no_task_trains_on_images_outside_its_list(scans):
    """Detection and segmentation read the same names from one list of VOC."""
    assert read_voc(scans, "train").image_ids.tolist() == ["scan 1", "scan -1"]
    assert [image.stem for image, _ in voc_pairs(scans, "train").pairs] == ["scan 1", "scan -1"]


def test_augmented_lists_may_have_names_with_spaces(scans):
    """ "scan 1" in trainaug.txt is one name, not a name and a mark."""
    (scans / "SegmentationClass").rename(scans / "SegmentationClassAug")
    (scans / "ImageSets/Segmentation/trainaug.txt").write_text("scan 1\nscan\n")
    assert [image.stem for image, _ in voc_pairs(scans, "train_aug").pairs] == ["scan 1", "scan"]


def test_the_endings_equal_pillows_for_our_formats():
    """Pillow's registered endings of the allowed formats are the oracle."""
    Image.init()
    assert set(ENDINGS) == {ending for ending, form in Image.registered_extensions().items() if form in FORMATS}


@pytest.mark.parametrize("ending", [".png", ".PNG", ".Jpg", ".webp", ".tif", ".TIFF", ".BMP", ".gif", ".ppm"])
def test_every_reader_finds_images_of_every_ending_in_any_case(scans, ending):
    form = {".tif": "TIFF", ".Jpg": "JPEG", ".ppm": "PPM"}.get(ending, ending[1:].upper())
    (scans / "JPEGImages/scan 1.jpg").unlink()
    Image.new("RGB", (40, 30)).save(scans / f"JPEGImages/scan 1{ending}", form)
    assert read_voc(scans, "train").files[0] == f"JPEGImages/scan 1{ending}"
    assert voc_pairs(scans, "train").pairs[0][0].name == f"scan 1{ending}"
    (scans / "folders/train/cat").mkdir(parents=True)
    (scans / f"JPEGImages/scan 1{ending}").rename(scans / f"folders/train/cat/1{ending}")
    assert len(ImageFolderSplit(scans / "folders", "train")) == 1


def test_the_first_ending_of_equal_names_is_taken(tmp_path, caplog):
    """a.jpg is taken before a.PNG and a.webp, with one warning for each run."""
    for name in ("a.webp", "a.PNG", "a.jpg", "b.bmp", "b.gif", "a.xml"):
        (tmp_path / name).touch()
    files = NamedFiles(tmp_path)
    with caplog.at_level(logging.WARNING, "dcnlab"):
        assert [files.find(name).name for name in "aba"] == ["a.jpg", "b.bmp", "a.jpg"]
    assert len(caplog.messages) == 1
    assert "a.jpg and a.PNG and a.webp, files of one name; a.jpg is taken" in caplog.messages[0]
