"""Detections of a test on their way from tensors to the metric and to the run's file."""

import torch

from dcnlab.data.digits.datasets import DigitDetection
from dcnlab.data.digits.geometry import Geometry
from dcnlab.data.digits.scenes import DigitScenes
from dcnlab.tasks.box_truth import in_arrays


def detected(boxes, labels):
    """Detections of one image as a detector gives them, all of score 0.5."""
    corners = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return {"boxes": corners, "labels": torch.tensor(labels).long(), "scores": torch.full((len(labels),), 0.5)}


def test_detections_of_images_become_flat_arrays():
    """Corners become width and height, labels become positions, and an image without boxes has no row."""
    arrays = in_arrays({0: detected([[1, 2, 4, 6]], [3]), 1: detected([], []), 4: detected([[0, 0, 1, 1]] * 2, [1, 2])})
    assert arrays.images.tolist() == [0, 4, 4]
    assert arrays.classes.tolist() == [2, 0, 1]
    assert arrays.boxes.tolist() == [[1, 2, 3, 4], [0, 0, 1, 1], [0, 0, 1, 1]]
    assert arrays.scores.tolist() == [0.5] * 3
    assert in_arrays({}).boxes.shape == (0, 4)


def test_detected_digits_are_written_by_scene_and_label():
    """COCO's result form: the scene's index and the label, which counts from 1."""
    view = DigitDetection(DigitScenes("val", Geometry(), 6))
    assert view.own_names(in_arrays({5: detected([[1, 2, 4, 6]], [10])})) == [
        {"image_id": 5, "category_id": 10, "bbox": [1, 2, 3, 4], "score": 0.5}
    ]
