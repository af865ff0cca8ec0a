"""Cityscapes: its table of classes, either kind of label file, and what is said where something is missing."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from locations import SHARED
from PIL import Image

from dcnlab.data.labels import IGNORE, OUTSIDE
from dcnlab.data.segmentation.cityscapes import VALUES, cityscapes_pairs
from dcnlab.data.segmentation.data_module import SegmentationDataModule
from dcnlab.data.segmentation.split import SegmentationSplit

SAMPLE = SHARED / "data/camvid_cityscapes"
OFFICIAL = torchvision.datasets.Cityscapes.classes
needs_sample = pytest.mark.skipif(not SAMPLE.is_dir(), reason="needs the camvid_cityscapes folder beside the checkout")


@pytest.fixture
def root(tmp_path):
    """Two splits of one city, one picture each; the label files hold every official id, or every train id."""
    for split in ("train", "val"):
        for part in ("leftImg8bit", "gtFine"):
            (tmp_path / part / split / "ulm").mkdir(parents=True)
        Image.fromarray(np.zeros((1, 35, 3), np.uint8)).save(
            tmp_path / f"leftImg8bit/{split}/ulm/ulm_0_0_leftImg8bit.png"
        )
        for kind, values in (("labelIds", [*range(34), 255]), ("labelTrainIds", [*range(19), *[255] * 16])):
            Image.fromarray(np.array([values], np.uint8)).save(
                tmp_path / f"gtFine/{split}/ulm/ulm_0_0_gtFine_{kind}.png"
            )
    return tmp_path


def labels_of(found):
    """The labels of the first image."""
    return SegmentationSplit(found.pairs, found.classes, found.lookup)[0][1][0].tolist()


def test_cityscapes_ids_equal_the_official_table(root):
    """All 34 ids and names are compared with torchvision's copy of the table."""
    official = {entry.id: entry.train_id for entry in OFFICIAL if entry.id >= 0}
    found = cityscapes_pairs(root, "train")
    assert found.classes == [name for _, name in sorted((e.train_id, e.name) for e in OFFICIAL if 0 <= e.train_id < 19)]
    assert labels_of(found) == [official[value] for value in range(34)] + [IGNORE]
    assert found.lookup[34:255].tolist() == [OUTSIDE] * 221


def test_label_train_ids_serve_where_label_ids_are_absent(root):
    """Without labelIds files the labelTrainIds give the same 19 classes."""
    (root / "gtFine/train/ulm/ulm_0_0_gtFine_labelIds.png").unlink()
    assert labels_of(cityscapes_pairs(root, "train")) == [*range(19), *[IGNORE] * 16]


def test_chosen_classes_agree_in_both_kinds_of_labels(root):
    """labelIds and labelTrainIds give the chosen classes the same numbers and ignore the others."""
    by_ids = labels_of(cityscapes_pairs(root, "train", ["car", "road"]))
    assert {value: label for value, label in enumerate(by_ids) if label != IGNORE} == {26: 0, 7: 1}
    (root / "gtFine/train/ulm/ulm_0_0_gtFine_labelIds.png").unlink()
    by_train_ids = labels_of(cityscapes_pairs(root, "train", ["car", "road"]))
    assert {value: label for value, label in enumerate(by_train_ids) if label != IGNORE} == {13: 0, 0: 1}


def error_of(make):
    """The error's text, which is one line."""
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z") as caught:
        make()
    return str(caught.value)


def test_what_is_missing_or_unknown_is_named(root):
    assert "nearest is 'train'" in error_of(lambda: cityscapes_pairs(root, "trian"))
    assert "nearest is 'traffic light'" in error_of(lambda: cityscapes_pairs(root, "train", ["traffic lights"]))
    assert "data.ignore is 0" in error_of(lambda: cityscapes_pairs(root, "train", ignore=0))
    for kind in ("labelIds", "labelTrainIds"):
        (root / f"gtFine/val/ulm/ulm_0_0_gtFine_{kind}.png").unlink()
    message = error_of(lambda: cityscapes_pairs(root, ["train", "val"]))
    assert f"label {root}/gtFine/val/ulm/ulm_0_0_gtFine_labelIds.png is missing" in message
    shutil.rmtree(root / "gtFine")
    assert str(root / "gtFine") in error_of(lambda: cityscapes_pairs(root, "train"))


@needs_sample
def test_the_cityscapes_sample_equals_torchvisions_reading():
    """Labels of the sample equal torchvision.datasets.Cityscapes mapped to training ids."""
    data = SegmentationDataModule("cityscapes", SAMPLE, test="val")
    assert (len(data.train), len(data.val)) == (12, 6)
    theirs = torchvision.datasets.Cityscapes(str(SAMPLE), "val", target_type="semantic")
    table = {entry.id: entry.train_id for entry in OFFICIAL}
    wanted = {Path(path).name: np.asarray(theirs[i][1]) for i, path in enumerate(theirs.images)}
    for (path, _), (_, label) in zip(data.val.pairs, data.val, strict=True):
        assert np.array_equal(label, np.vectorize(table.get)(wanted[path.name]))


@needs_sample
def test_both_kinds_of_label_give_the_same_labels(tmp_path):
    """labelIds and labelTrainIds of all 18 sample images give equal label maps."""
    shutil.copytree(SAMPLE, tmp_path / "copy")
    for path in (tmp_path / "copy/gtFine").glob("*/*/*_labelIds.png"):
        path.unlink()
    ids, train_ids = (cityscapes_pairs(root, ["train", "val"]) for root in (SAMPLE, tmp_path / "copy"))
    assert {path.name.split("_gtFine_")[1] for _, path in train_ids.pairs} == {"labelTrainIds.png"}
    splits = [SegmentationSplit(found.pairs, found.classes, found.lookup) for found in (ids, train_ids)]
    for index in range(18):
        assert torch.equal(splits[0][index][1], splits[1][index][1])


def test_there_are_nineteen_classes():
    assert len(VALUES) == 19


def test_images_may_have_other_endings(root):
    """An image may be .JPG while its label is .png."""
    path = root / "leftImg8bit/train/ulm/ulm_0_0_leftImg8bit.png"
    path.rename(path.with_suffix(".JPG"))
    (image, label), *_ = cityscapes_pairs(root, "train").pairs
    assert (image.name, label.name) == ("ulm_0_0_leftImg8bit.JPG", "ulm_0_0_gtFine_labelIds.png")
