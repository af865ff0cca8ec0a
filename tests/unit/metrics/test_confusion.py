"""Confusion matrices: fractions and most confused pairs by hand, the file, and what its readers refuse."""

import json

import numpy as np
import pytest

from dcnlab.io.errors import DataError
from dcnlab.metrics import confusion

COUNTS = [[6, 2, 0], [0, 0, 0], [5, 0, 5]]


def test_fractions_are_of_the_rows_and_nan_without_labels():
    """A row's sum is the number of images of its class; a class without images has no fractions."""
    fractions = confusion.of("abc", COUNTS, "images").fractions()
    assert fractions[0].tolist() == [0.75, 0.25, 0]
    assert np.isnan(fractions[1]).all()
    assert fractions[2].tolist() == [0.5, 0, 0.5]


def test_the_most_confused_pairs_come_by_fraction():
    """Half of the c are found as a, and a quarter of the a as b; there is no third pair."""
    assert confusion.of("abc", COUNTS, "images").most_confused(5) == [(2, 0), (0, 1)]
    assert confusion.of("abc", COUNTS, "images").most_confused(1) == [(2, 0)]


def test_a_written_matrix_is_read_as_it_was(tmp_path):
    """Classes, counts and unit survive, and other programs read plain JSON with rows of labels."""
    path = tmp_path / "confusion.json"
    confusion.write(path, confusion.of(["a", 'b"', "ü"], COUNTS, "pixels"))
    read = confusion.read(path)
    assert (read.classes, read.counts.tolist(), read.unit) == (("a", 'b"', "ü"), COUNTS, "pixels")
    plain = json.loads(path.read_text())
    assert (plain["counts"], plain["rows"], plain["columns"]) == (COUNTS, "label", "prediction")


def test_a_run_without_a_matrix_has_none(tmp_path):
    """Folders of earlier releases, and detectors, have no file."""
    assert confusion.read(tmp_path / "confusion.json") is None


@pytest.mark.parametrize(
    "change",
    [
        {"counts": [[1, 2], [3, 4]]},
        {"counts": [[1, 2, 3], [4, 5, 6], [7, 8]]},
        {"counts": [[1, 2, 3], [4, -5, 6], [7, 8, 9]]},
        {"counts": [[1, 2, 3], [4, 0.5, 6], [7, 8, True]]},
        {"counts": "none"},
        {"classes": ["a", "b", 3]},
        {"classes": []},
        {"unit": "apples"},
    ],
)
def test_a_foreign_matrix_is_refused_in_one_line(tmp_path, change):
    """The file may be anybody's: its name is in the message, and nothing of it is shown."""
    path = tmp_path / "confusion.json"
    path.write_text(json.dumps({"unit": "images", "classes": ["a", "b", "c"], "counts": COUNTS} | change))
    with pytest.raises(DataError, match=r"confusion\.json holds no confusion matrix") as error:
        confusion.read(path)
    assert "\n" not in str(error.value)
