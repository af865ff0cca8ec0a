"""The embedded digits: read as MNIST publishes them, split without overlap."""

import struct

import numpy as np
import pytest

from dcnlab.data.digits.mnist_reader import SPLITS, read_digits, read_idx


def test_an_idx_file_written_by_hand_reads_back():
    """Header and bytes of a 2x3 array, written with struct."""
    data = b"\0\0\x08\x02" + struct.pack(">ii", 2, 3) + bytes([1, 2, 3, 4, 5, 6])
    assert read_idx(data).tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize(
    "data", [b"", b"\0\0\x0d\x01" + struct.pack(">i", 1) + b"1234", b"\0\0\x08\x01" + struct.pack(">i", 3) + b"ab"]
)
def test_a_broken_idx_file_is_refused(data):
    with pytest.raises(ValueError, match="idx file"):
        read_idx(data)


def test_the_embedded_digits_are_mnists_test_set():
    """Class counts and first labels as published with MNIST."""
    labels = {split: read_digits(split)[1] for split in SPLITS}
    counts = sum(np.bincount(split, minlength=10) for split in labels.values())
    assert counts.tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert labels["train"][:7].tolist() == [7, 2, 1, 0, 4, 1, 4]
    assert labels["val"][0] == 9
    assert labels["test"][:2].tolist() == [5, 9]


def test_no_digit_is_in_two_splits_and_every_class_in_all():
    """7000, 1000 and 2000 different images, with enough of each class."""
    pictures = {split: {ink.tobytes() for ink in read_digits(split)[0]} for split in SPLITS}
    assert [len(pictures[split]) for split in SPLITS] == [7000, 1000, 2000]
    assert not pictures["train"] & pictures["val"]
    assert not pictures["train"] & pictures["test"]
    assert not pictures["val"] & pictures["test"]
    for split, least in (("train", 580), ("val", 80), ("test", 160)):
        assert np.bincount(read_digits(split)[1]).min() > least


def test_an_unknown_split_names_the_three_there_are():
    with pytest.raises(ValueError, match=r"'valid'.*train, val, test"):
        read_digits("valid")
