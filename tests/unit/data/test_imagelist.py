"""Folders with lists: how lines are read, which classes they have, and what is refused."""

import numpy as np
import pytest
from PIL import Image

from dcnlab.data.image_list import imagelist_pairs
from dcnlab.data.labels import IGNORE, OUTSIDE


@pytest.fixture
def root(tmp_path):
    """Pictures with and without spaces in their names."""
    for name in ("a", "b", "my street", "c,d"):
        Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(tmp_path / f"{name}.png")
        Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / f"{name} label.png")
    return tmp_path


def error_of(make):
    """The error's text, which is one line."""
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z") as caught:
        make()
    return str(caught.value)


@pytest.mark.parametrize(
    "line",
    ["my street.png\tmy street label.png", "my street.png,my street label.png", "my street.png , my street label.png"],
)
def test_names_with_spaces_are_divided_by_a_tab_or_a_comma(root, line):
    (root / "train.txt").write_text(line + "\n")
    assert imagelist_pairs(root, "train", ["x"]).pairs == [(root / "my street.png", root / "my street label.png")]


def test_a_tab_separates_names_that_contain_commas(root):
    """A comma divides two names only in a line without a tab."""
    (root / "train.txt").write_text("c,d.png\tc,d label.png")
    assert imagelist_pairs(root, "train", ["x"]).pairs == [(root / "c,d.png", root / "c,d label.png")]


def test_blank_lines_crlf_and_a_bom_are_not_names(root):
    """A list written on Windows gives the same image names as a plain one."""
    (root / "train.txt").write_bytes(b"\xef\xbb\xbfa.png\ta label.png\r\n\r\nb.png\tb label.png\r\n")
    assert [image.name for image, _ in imagelist_pairs(root, "train", ["x"]).pairs] == ["a.png", "b.png"]


def test_an_image_in_two_splits_is_read_once(root):
    """Lists of several splits are joined in order without repeats."""
    (root / "one.txt").write_text("a.png\ta label.png")
    (root / "two.txt").write_text("b.png\tb label.png\na.png\ta label.png")
    assert [image.name for image, _ in imagelist_pairs(root, ["one", "two"], ["x"]).pairs] == ["a.png", "b.png"]


@pytest.mark.parametrize(
    "line", ["../a.png\ta label.png", "a.png\tx/../../a label.png", "/etc/a.png\ta label.png", ".."]
)
def test_a_path_out_of_the_root_is_refused_with_its_line(root, line):
    (root / "train.txt").write_text(f"a.png\ta label.png\n{line}\n")
    assert f"{root}/train.txt line 2" in error_of(lambda: imagelist_pairs(root, "train", ["x"]))


@pytest.mark.parametrize("line", ["a.png", "my street.png my street label.png", "a.png,a label.png,b.png", "a.png,"])
def test_a_line_that_is_not_two_names_is_refused_with_its_number(root, line):
    (root / "train.txt").write_text(f"\n{line}\n")
    message = error_of(lambda: imagelist_pairs(root, "train", ["x"]))
    assert f"train.txt line 2 is {line!r}" in message
    assert "tab or a comma" in message


def test_a_missing_file_is_named_before_training(root):
    (root / "train.txt").write_text("a.png\tmissing.png")
    message = error_of(lambda: imagelist_pairs(root, "train", ["x"]))
    assert f"label {root}/missing.png is missing; split train of {root}" in message


def test_an_empty_list_and_no_list_are_refused(root):
    (root / "train.txt").write_text("\n")
    assert "name at least one split" in error_of(lambda: imagelist_pairs(root, [], ["x"]))
    assert "split train" in error_of(lambda: imagelist_pairs(root, "train", ["x"]))


def test_an_unknown_split_names_the_nearest(root):
    (root / "training.txt").write_text("a.png\ta label.png")
    (root / "classes.txt").write_text("x")
    message = error_of(lambda: imagelist_pairs(root, "train"))
    assert "nearest is 'training'; there are training" in message


def test_classes_are_required(root):
    (root / "train.txt").write_text("a.png\ta label.png")
    message = error_of(lambda: imagelist_pairs(root, "train"))
    assert "data.classes is null" in message
    assert str(root / "classes.txt") in message


def test_classes_are_numbered_by_line_or_given_value(root):
    """classes.txt may hold names alone or values and names; the ignored value has no class."""
    (root / "train.txt").write_text("a.png\ta label.png")
    (root / "classes.txt").write_text("road\nparked car\n")
    found = imagelist_pairs(root, "train")
    assert found.classes == ["road", "parked car"]
    assert found.lookup.tolist()[:3] == [0, 1, OUTSIDE]
    (root / "classes.txt").write_text("7 sky\n2 parked car\n9 void\n")
    found = imagelist_pairs(root, "train", ignore=9)
    assert found.classes == ["parked car", "sky"]
    assert {value: int(label) for value, label in enumerate(found.lookup) if label != OUTSIDE} == {
        2: 0,
        7: 1,
        9: IGNORE,
    }


def test_numbering_by_line_skips_the_ignored_value(root):
    """With data.ignore=0 the first class of classes.txt has the value 1."""
    (root / "train.txt").write_text("a.png\ta label.png")
    (root / "classes.txt").write_text("wall\nfloor\n")
    assert imagelist_pairs(root, "train", ignore=0).lookup.tolist()[:4] == [IGNORE, 0, 1, OUTSIDE]
    assert imagelist_pairs(root, "train", ["wall", "floor"], 0).lookup.tolist()[:4] == [IGNORE, 0, 1, OUTSIDE]


@pytest.mark.parametrize("text", ["1 road\n1 car\n", "256 road\n", "road\nroad\n", ""])
def test_a_broken_file_of_classes_is_named(root, text):
    (root / "train.txt").write_text("a.png\ta label.png")
    (root / "classes.txt").write_text(text)
    assert str(root / "classes.txt") in error_of(lambda: imagelist_pairs(root, "train"))


@pytest.mark.parametrize("wrong", [{"classes": ["x", "x"]}, {"classes": []}, {"classes": ["x"], "ignore": 256}])
def test_wrong_classes_and_ignored_values_name_the_field(root, wrong):
    (root / "train.txt").write_text("a.png\ta label.png")
    assert error_of(lambda: imagelist_pairs(root, "train", **wrong)).startswith("data.")


def test_a_list_that_is_no_text_is_named(root):
    (root / "train.txt").write_bytes(b"\xff\xfe\x00a")
    assert str(root / "train.txt") in error_of(lambda: imagelist_pairs(root, "train", ["x"]))
