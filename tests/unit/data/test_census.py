"""Which classes occur in the labels: counted by hand, in samples, and said in one line."""

import numpy as np
import pytest
from PIL import Image
from test_detection import annotations

from dcnlab.data.census import Census, warnings_of
from dcnlab.data.detection.split import DetectionSplit
from dcnlab.data.segmentation.split import SegmentationSplit


def labels(folder, values, size=(2, 5)):
    """A pair of files for each list of pixels."""
    pairs = []
    for number, pixels in enumerate(values):
        pairs.append((folder / f"{number}.jpg", folder / f"{number}.png"))
        Image.fromarray(np.array(pixels, np.uint8).reshape(size)).save(pairs[-1][1])
    return pairs


def test_pixels_are_counted_by_class_and_raw_value(tmp_path):
    """An absent class and the ignored value are known, and one warning names the class."""
    pairs = labels(tmp_path, [[0] * 7 + [2] * 3, [0] * 5 + [255] * 5])
    census = SegmentationSplit(pairs, ["sky", "car", "road"]).census()
    assert census.counts.tolist() == [12, 0, 3]
    assert (census.absent, census.ignored, census.mask) == (("car",), (255,), None)
    (line,) = warnings_of({"data.train": census})
    assert line == "warning: class 'car' is in no label of data.train (2 of 2 labels read)"


def test_a_binary_mask_of_0_and_255_is_recognized(tmp_path):
    """The warning names the remedies; labels with both classes and 255 get none."""
    census = SegmentationSplit(labels(tmp_path, [[0] * 8 + [255] * 2]), ["background", "cell"]).census()
    (line,) = warnings_of({"data.train": census, "data.test": census})
    for part in ("class 'cell' is in no label of data.train (1 of 1 labels read), data.test (1 of 1", "next to 0 the",
                 "255, which is ignored (20% of the pixels)", "`255 NAME`", "data.ignore=254"):  # fmt: skip
        assert part in line
    ordinary = SegmentationSplit(labels(tmp_path, [[0, 1] * 4 + [255] * 2]), ["background", "cell"]).census()
    assert warnings_of({"data.train": ordinary}) == []


def test_the_census_reads_an_even_sample_of_labels(tmp_path):
    """It reads first, middle and last labels, and more of them until one has a class."""
    pairs = labels(tmp_path, [[1] * 10] * 9 + [[0] * 10])
    split = SegmentationSplit(pairs, ["a", "b"])
    assert split.census(3).labels == 3
    assert split.census(3).counts.tolist() == [10, 20]  # the first, one of the middle, the last
    (line,) = warnings_of({"data.train": SegmentationSplit(pairs[:9], ["a", "b"]).census(3)})
    assert "(3 of 9 labels read)" in line
    rare = SegmentationSplit(labels(tmp_path, [[255] * 10] * 7 + [[0] * 10] + [[255] * 10]), ["a"]).census(2)
    assert (rare.counts.tolist(), rare.empty) == ([10], False)


def test_the_census_skips_unreadable_labels(tmp_path):
    """The run itself reports the broken file when it reads it."""
    pairs = labels(tmp_path, [[0] * 10, [0, 7] * 5])
    pairs[0][1].write_bytes(b"no picture")
    assert SegmentationSplit(pairs, ["a", "b"]).census().counts.tolist() == [5, 0]


def test_boxes_count_as_the_split_uses_them(tmp_path):
    """Testing counts difficult boxes, training does not; empty boxes count in neither."""
    empty_box, real = [5, 5, 5, 9], [1, 1, 4, 4]
    seen = annotations(tmp_path, [empty_box, real, real], difficult=[1])
    assert DetectionSplit(seen, augment=False).census().counts.tolist() == [2, 0]
    with pytest.warns(UserWarning, match="no area"):
        assert DetectionSplit(seen, augment=True).census().counts.tolist() == [1, 0]


def test_an_empty_split_is_warned_and_long_lists_are_cut():
    """A split without boxes is named; of seven missing classes five are listed and two counted."""
    none = Census(("a", "b"), np.zeros(2, np.int64), 3, 3)
    some = Census(tuple("abcdefgh"), np.array([1] + [0] * 7), 3, 3)
    lines = warnings_of({"data.val": none, "data.test": some})
    assert lines[0] == "warning: data.val has no box that counts in its 3 images; val/... is not scored"
    assert lines[1] == "warning: classes 'b', 'c', 'd', 'e', 'f' and 2 more are in no label of data.test"
