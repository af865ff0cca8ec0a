"""What results.json records of a user's folder."""

import own_folders
import pytest

from dcnlab.data.detection.data_module import DetectionDataModule
from dcnlab.training import own_record


@pytest.mark.parametrize("name", ["own", "yolo"])
def test_a_run_without_validation_records_its_two_splits(name, tmp_path):
    """data.val=null, as in the paper's experiments: the folder is recorded after the test all the same."""
    for split, count in (("train", 6), ("test", 4)):
        own_folders.yolo(tmp_path, count, f"{split}/images", f"{split}/labels")
    data = DetectionDataModule(name, tmp_path, train="train", val=None, test="test")
    content = own_record.record(data)["data"]
    assert list(content["splits"]) == ["train", "test"]
    assert content["splits"]["test"]["images"] == 4
    assert own_record.difference(data, {"data": content}) is None
