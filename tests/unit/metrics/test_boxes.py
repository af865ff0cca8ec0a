"""What is refused of boxes that are to be scored, and by which words."""

import numpy as np
import pytest

from dcnlab.metrics.boxes import GroundTruth, arrays

GT = {
    "images": [{"id": 7}, {"id": 9}],
    "categories": [{"id": 3, "name": "cat"}],
    "annotations": [{"image_id": 7, "category_id": 3, "bbox": [0, 0, 10, 20]}],
}
RIGHT = {"image_id": 9, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5}


def test_box_arrays_hold_the_values_of_the_entries():
    """Areas, flags, image positions, corners and scores of two hand-made detections."""
    truth, found = arrays(GT, [RIGHT, {**RIGHT, "image_id": 7, "score": np.float32(1)}])
    assert truth.areas.tolist() == [200]
    assert not truth.crowd.any()
    assert not truth.difficult.any()
    assert found.images.tolist() == [1, 0]
    assert found.boxes.tolist() == [[1, 2, 3, 4]] * 2
    assert found.scores.tolist() == [0.5, 1]


def test_no_entries_give_empty_arrays_of_the_right_shape():
    """Boxes have the shape (0, 4), so that indexing still works."""
    truth, found = arrays({**GT, "annotations": []}, [])
    assert truth.boxes.shape == found.boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("spoilt", "words"),
    [
        ({"image_id": 8}, "has the image_id 8, which no image has; nearest: "),
        ({"image_id": "9"}, "has the image_id '9'"),
        ({"image_id": []}, r"has the image_id \[\]"),
        ({"category_id": 4}, "has the category_id 4, which no category has; nearest: 3"),
        ({"bbox": [1, 2, -3, 4]}, r"has the bbox \[1, 2, -3, 4\]; width and height must not be negative"),
        ({"bbox": [1, 2, 3]}, r"has the bbox \[1, 2, 3\]; it must be x, y, width, height"),
        ({"bbox": [1, 2, 3, None]}, ".* four finite numbers"),
        ({"bbox": [1, 2, 3, float("nan")]}, ".* four finite numbers"),
        ({"bbox": "1234"}, "has the bbox '1234'"),
        ({"bbox": 5}, "has the bbox 5"),
        ({"score": "high"}, "has the score 'high'; it must be a finite number"),
        ({"score": float("inf")}, "has the score inf"),
        ({"score": 10**400}, "has the score 1000"),
        ({"score": True}, "has the score true"),
    ],
)
def test_a_wrong_detection_is_named_by_its_index_and_value(spoilt, words):
    with pytest.raises(ValueError, match=f"^entry 1, counted from 0, {words}") as error:
        arrays(GT, [RIGHT, {**RIGHT, **spoilt}, {}])
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("key", ["image_id", "category_id", "bbox", "score"])
def test_a_missing_key_is_named(key):
    rest = {name: value for name, value in RIGHT.items() if name != key}
    with pytest.raises(ValueError, match=f"entry 0, counted from 0, has no {key}; it has "):
        arrays(GT, [rest])


def test_an_entry_that_is_not_an_object_is_shown():
    """A list in place of an object is shown with its position."""
    with pytest.raises(ValueError, match=r"entry 0, counted from 0, is \[1\]; it must be an object"):
        arrays(GT, [[1]])


@pytest.mark.parametrize(
    ("spoilt", "words"),
    [
        ({"annotations": None}, "no list of objects 'annotations'"),
        ({"images": [{"id": 7}, {"id": 7}]}, "image 7 is there twice"),
        ({"images": [{}]}, "image 0, counted from 0, has the id null"),
        ({"categories": [{"id": 3, "name": "cat"}, {"id": 4, "name": "cat"}]}, "category name 'cat' is there twice"),
        ({"annotations": [{"image_id": 7, "category_id": 3}]}, "annotation 0, counted from 0, has no bbox"),
        (
            {"annotations": [{"image_id": 7, "category_id": 3, "bbox": [0, 0, 1, 1], "area": "big"}]},
            "annotation 0, counted from 0, has the area 'big'",
        ),
    ],
)
def test_wrong_annotations_are_named(spoilt, words):
    with pytest.raises(ValueError, match=words):
        GroundTruth.of({**GT, **spoilt})


def test_ids_are_numbers_or_text_and_never_differ_in_type_only():
    """7 and "7" in one file are refused; 7, 1.5 and texts are kept."""
    truth = GroundTruth.of({**GT, "images": [{"id": 7}, {"id": 1.5}, {"id": "a\xa0b"}]})
    assert truth.image_ids == [7, 1.5, "a\xa0b"]
    with pytest.raises(ValueError, match="the image ids 7 and '7' differ in type only"):
        GroundTruth.of({**GT, "images": [{"id": 7}, {"id": "7"}]})
    with pytest.raises(ValueError, match="image 1, counted from 0, has the id nan; it must be a number or text"):
        GroundTruth.of({**GT, "images": [{"id": 7}, {"id": float("nan")}]})
