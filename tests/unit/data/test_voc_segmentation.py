"""VOC's segmentations: where the root may lie, SBD's list in both of its forms, and other folders in VOC's layout."""

import shutil

import numpy as np
import pytest
import torchvision
from locations import SHARED
from PIL import Image

from dcnlab.data.segmentation.data_module import SegmentationDataModule
from dcnlab.data.segmentation.split import SegmentationSplit
from dcnlab.data.segmentation.voc import read_voc_label, voc_pairs

SAMPLE = SHARED / "data/loader_samples/voc_seg"


@pytest.fixture
def devkit(tmp_path):
    """VOCdevkit/VOC2012 of pictures 1 to 6; train has 1 and 2, val 3 and 4."""
    folder = tmp_path / "VOCdevkit/VOC2012"
    for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / part).mkdir(parents=True)
    for number in range(1, 7):
        Image.fromarray(np.zeros((3, 4, 3), np.uint8)).save(folder / f"JPEGImages/{number}.jpg")
    for number in range(1, 5):
        Image.fromarray(np.full((3, 4), number, np.uint8)).save(folder / f"SegmentationClass/{number}.png")
    (folder / "ImageSets/Segmentation/train.txt").write_text("1\n2\n")
    (folder / "ImageSets/Segmentation/val.txt").write_text("3\n4\n")
    return folder.parent


def names(found):
    """Image names with the folder of their labels."""
    return [f"{image.stem} {label.parent.name}/{label.name}" for image, label in found.pairs]


def error_of(make):
    """The error's text, which is one line."""
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z") as caught:
        make()
    return str(caught.value)


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="needs the folder loader_samples beside the checkout")
def test_the_voc_sample_equals_torchvisions_reading():
    """Images and labels equal torchvision.datasets.VOCSegmentation."""
    data = SegmentationDataModule("voc", SAMPLE, test="2012/val")
    theirs = torchvision.datasets.VOCSegmentation(str(SAMPLE), "2012", "val")
    assert len(data.test) == len(theirs) == 3
    assert data.classes[0] == "background"
    for (image, label), (want_image, want_label) in zip(data.test, theirs, strict=True):
        assert np.array_equal(label, np.asarray(want_label))
        pixels = image.numpy() * np.array([[[0.229]], [[0.224]], [[0.225]]]) + [[[0.485]], [[0.456]], [[0.406]]]
        assert np.abs(pixels * 255 - np.asarray(want_image).transpose(2, 0, 1)).max() < 1e-3


@pytest.mark.parametrize("below", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
@pytest.mark.parametrize("split", ["train", "2012/train"])
def test_the_root_may_be_the_devkit_its_parent_or_one_year(devkit, below, split):
    """The same split is found from each of the three folders."""
    assert names(voc_pairs(devkit.parent / below, split)) == ["1 SegmentationClass/1.png", "2 SegmentationClass/2.png"]


def test_several_splits_are_read_in_their_order(devkit):
    assert [name[0] for name in names(voc_pairs(devkit, ["2012/val", "train"]))] == ["3", "4", "1", "2"]


def test_a_split_without_a_year_is_2012_or_the_only_year(devkit):
    """With several years but not 2012, the error lists them."""
    shutil.copytree(devkit / "VOC2012", devkit / "VOC2007")
    assert voc_pairs(devkit, "train").pairs[0][0] == devkit / "VOC2012/JPEGImages/1.jpg"
    shutil.rmtree(devkit / "VOC2012")
    assert voc_pairs(devkit, "train").pairs[0][0] == devkit / "VOC2007/JPEGImages/1.jpg"
    shutil.copytree(devkit / "VOC2007", devkit / "VOC2008")
    assert "2007, 2008" in error_of(lambda: voc_pairs(devkit, "train"))


def test_unknown_splits_and_years_name_the_nearest(devkit):
    assert "nearest is 'train'" in error_of(lambda: voc_pairs(devkit, "trian"))
    assert "nearest is '2012'" in error_of(lambda: voc_pairs(devkit, "2011/train"))
    assert "'2007/train'" in error_of(lambda: voc_pairs(devkit / "VOC2012", "2007/train"))


def test_a_name_out_of_the_folder_is_refused(devkit):
    (devkit / "VOC2012/ImageSets/Segmentation/odd.txt").write_text("1\n../../1\n")
    assert "odd.txt line 2" in error_of(lambda: voc_pairs(devkit, "odd"))


def test_the_users_classes_are_numbered_by_label_value(devkit):
    """data.classes gives names to the label values 0, 1, 2 in order."""
    pairs = voc_pairs(devkit, "train", ["ground", "weed", "crop"])
    split = SegmentationSplit(pairs.pairs, pairs.classes, pairs.lookup)
    assert [label.unique().tolist() for _, label in split] == [[1], [2]]
    pairs = voc_pairs(devkit, "train", ["ground", "weed"], ignore=2)
    split = SegmentationSplit(pairs.pairs, pairs.classes, pairs.lookup)
    assert [label.unique().tolist() for _, label in split] == [[1], [255]]


@pytest.mark.parametrize("name", ["trainaug", "train_aug"])
@pytest.mark.parametrize(
    "lines",
    [
        "1\n5\n",
        "/JPEGImages/1.jpg /SegmentationClassAug/1.png\n/JPEGImages/5.jpg /SegmentationClassAug/5.png\n",
        "/JPEGImages/1.jpg\t/SegmentationClassAug/1.png\n/JPEGImages/5.jpg\t/SegmentationClassAug/5.png\n",
    ],
)
def test_trainaug_lists_are_read_by_either_name_and_form(devkit, name, lines):
    """The list may be trainaug or train_aug, with ids or with pairs of paths."""
    folder = devkit / "VOC2012"
    (folder / f"ImageSets/Segmentation/{name}.txt").write_text(lines)
    (folder / "SegmentationClassAug").mkdir()
    for number in (1, 5):
        Image.fromarray(np.full((3, 4), number, np.uint8)).save(folder / f"SegmentationClassAug/{number}.png")
    for split in ("train_aug", "2012/trainaug"):
        assert names(voc_pairs(devkit, split)) == ["1 SegmentationClassAug/1.png", "5 SegmentationClassAug/5.png"]


def add_sbd(place):
    """SBD of pictures 2 to 6; returns its folder."""
    sbd = place / "benchmark_RELEASE/dataset"
    (sbd / "cls").mkdir(parents=True)
    for number in range(2, 7):
        (sbd / f"cls/{number}.mat").write_bytes(b"no MATLAB file")
    (sbd / "train.txt").write_text("5\n3\n")
    (sbd / "val.txt").write_text("2\n6\n4\n")
    return sbd


@pytest.mark.parametrize("place", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_official_sbd_adds_images_outside_voc(devkit, place):
    """train_aug is VOC's train plus those SBD images that VOC neither trains nor validates on."""
    add_sbd(devkit.parent / place)
    want = ["1 SegmentationClass/1.png", "2 SegmentationClass/2.png", "5 cls/5.mat", "6 cls/6.mat"]
    assert names(voc_pairs(devkit, "train_aug")) == want


def test_missing_sbd_names_the_files_and_their_source(devkit):
    """The message has the expected lists, folders and the address."""
    message = error_of(lambda: voc_pairs(devkit, "train_aug"))
    for part in ("trainaug.txt", "SegmentationClassAug", "benchmark_RELEASE", "http://home.bharathh.info"):
        assert part in message


def test_sbds_labels_are_read_from_matlab_files(devkit):
    """scipy writes a file with SBD's structure, cells and all."""
    io = pytest.importorskip("scipy.io", reason="needs scipy, which SBD's official labels alone need")
    path = add_sbd(devkit) / "cls/5.mat"
    values = np.arange(12, dtype=np.uint8).reshape(3, 4)
    # As SBD's files are: GTcls, a struct of Segmentation, Boundaries (a cell per class) and CategoriesPresent.
    cells = np.empty((20, 1), object)
    cells[:, 0] = [np.zeros((3, 4), bool) for _ in range(20)]
    io.savemat(path, {"GTcls": {"Boundaries": cells, "Segmentation": values, "CategoriesPresent": np.array([[1]])}})
    assert np.array_equal(read_voc_label(path), values)
    found = voc_pairs(devkit, "train_aug")
    split = SegmentationSplit(found.pairs, found.classes, found.lookup, read=found.read)
    assert np.array_equal(split[2][1], values)
    assert str(devkit / "benchmark_RELEASE/dataset/cls/6.mat") in error_of(lambda: split[3])


@pytest.mark.parametrize(
    ("text", "classes", "labels"),
    [
        ("road\nsky\ntree\n", ["background", "road", "sky", "tree"], {0: 0, 3: 3}),
        ("background\nroad\nsky\ntree\n", ["background", "road", "sky", "tree"], {0: 0, 3: 3}),
        ("3 tree\n0 soil\n7 sky\n255 void\n", ["soil", "tree", "sky"], {0: 0, 3: 1, 7: 2}),
        ("1 road\n3 tree\n", ["background", "road", "tree"], {0: 0, 1: 1, 3: 2}),
    ],
)
@pytest.mark.parametrize("place", ["", "VOC2012"])
def test_classes_txt_names_the_label_values(devkit, text, classes, labels, place):
    """Names alone count from 1 after the background, as in VOC; numbered lines say the value of each name."""
    (devkit / place / "classes.txt").write_text(text)
    found = voc_pairs(devkit, "train")
    assert list(found.classes) == classes
    assert {value: int(found.lookup[value]) for value in labels} == labels
    assert found.lookup[255] == 255
    assert list(voc_pairs(devkit, "train", ["a", "b"]).classes) == ["a", "b"]
