"""CamVid in the SegNet layout, as published and with the original lists' prefix."""

import numpy as np
import pytest
from locations import SHARED
from PIL import Image

from dcnlab.data.labels import IGNORE, OUTSIDE
from dcnlab.data.segmentation.camvid import CLASSES, camvid_pairs
from dcnlab.data.segmentation.data_module import SegmentationDataModule

CAMVID = SHARED / "data/camvid"


@pytest.mark.skipif(not CAMVID.is_dir(), reason="needs the camvid folder beside the checkout")
def test_camvid_has_its_published_splits_and_labels():
    """367, 101 and 233 images, and labels equal to the stored files."""
    data = SegmentationDataModule("camvid", CAMVID)
    assert [len(split) for split in (data.train, data.val, data.test)] == [367, 101, 233]
    names = [line.split()[1] for line in (CAMVID / "classes.txt").read_text().splitlines()]
    assert data.classes == names[:11]
    for index in (0, 100, 232):
        image, label = data.test[index]
        stored = np.asarray(Image.open(data.test.pairs[index][1]))
        assert image.shape == (3, 360, 480)
        assert np.array_equal(label, np.where(stored == 11, 255, stored))


@pytest.fixture
def root(tmp_path):
    """One picture under the names of the original lists."""
    for folder in ("train", "trainannot"):
        (tmp_path / folder).mkdir()
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(tmp_path / "train/0001TP_1.png")
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / "trainannot/0001TP_1.png")
    (tmp_path / "train.txt").write_text("/SegNet/CamVid/train/0001TP_1.png /SegNet/CamVid/trainannot/0001TP_1.png\n")
    return tmp_path


def test_prefixes_of_the_original_camvid_lists_are_accepted(root):
    """/SegNet/CamVid/ in the authors' lists stands for data.root."""
    assert camvid_pairs(root, "train").pairs == [(root / "train/0001TP_1.png", root / "trainannot/0001TP_1.png")]


def test_chosen_classes_are_numbered_in_the_given_order(root):
    """CamVid values of classes that were not chosen become the ignored label."""
    found = camvid_pairs(root, "train", ["Car", "Sky"])
    assert found.classes == ["Car", "Sky"]
    want = [IGNORE] * 12 + [OUTSIDE]
    want[CLASSES.index("Car")], want[CLASSES.index("Sky")] = 0, 1
    assert found.lookup.tolist()[:13] == want


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"splits": "trains"}, "nearest is 'train'"),
        ({"splits": "train", "classes": ["Cars"]}, "nearest is 'Car'"),
        ({"splits": "train", "ignore": 3}, "data.ignore is 3"),
    ],
)
def test_unknown_camvid_splits_and_classes_are_refused(root, wrong, said):
    """One line names the wrong split, class or ignored value."""
    with pytest.raises(ValueError, match=rf"\A[^\n]*{said}[^\n]*\Z"):
        camvid_pairs(root, **wrong)
