"""What is the class-aware RPN's own: classes at anchors, and no second stage."""

import pytest
import torch
from detection_cases import TinyBackbone
from torch.nn import functional

from dcnlab.models.anchors import RPNSettings
from dcnlab.models.class_aware_rpn import ClassAwareRPN
from dcnlab.models.detector import DetectionSettings


def model(**numbers) -> ClassAwareRPN:
    torch.manual_seed(0)
    settings = RPNSettings(scales=(4,), ratios=(1.0,), hidden_channels=16, allowed_border=None, **numbers)
    return ClassAwareRPN(TinyBackbone(), 3, channels=16, rpn=settings, detections=DetectionSettings(score_floor=0.3))


def test_an_anchor_gives_its_class_and_decoded_box():
    """By hand: anchor 28 of 64, class 2 and chosen deltas."""
    detector = model()
    image = torch.zeros(3, 64, 64)
    predictions = detector.predict(image[None])
    assert predictions.scores.shape == (1, 64, 4)
    # Of the 8x8 anchors of 32 pixels, number 3 * 8 + 4 lies at x = 32, y = 24; let it be of class 2, half as wide.
    scores = torch.tensor([9.0, 0, 0, 0]).repeat(1, 64, 1)
    deltas = torch.zeros(1, 64, 4)
    scores[0, 28] = torch.tensor([0.0, 0.0, 9.0, 0.0])
    deltas[0, 28, 2] = -torch.log(torch.tensor(2.0))
    detector.predict = lambda images: predictions._replace(scores=scores, deltas=deltas)
    (found,) = detector([image])
    assert found["labels"].tolist() == [2]
    torch.testing.assert_close(found["boxes"], torch.tensor([[24.0, 8, 40, 40]]))
    assert found["scores"].item() == pytest.approx(scores[0, 28].softmax(0)[2].item())


def test_the_rpn_loss_is_cross_entropy_over_all_classes():
    """By hand: one positive anchor, neighbours between the thresholds left out."""
    detector = model(sampled=64, positive_fraction=1.0)
    image = torch.randn(3, 64, 64)
    target = {"boxes": torch.tensor([[16.0, 8, 48, 40]]), "labels": torch.tensor([3])}  # anchor 28 itself
    scores = detector.predict(image[None]).scores[0]
    # Sampling is of at most 64, which are all: anchor 28 of class 3, its neighbours that overlap it by 0.3 to 0.7 left
    # out: shifted by 8 (0.6), by 8 both ways (0.39) and by 16 (0.33).
    labels = torch.zeros(64, dtype=torch.int64)
    for y, x in ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0)):
        for i in (-1, 1):
            for j in (-1, 1):
                labels[(3 + i * y) * 8 + 4 + j * x] = -1
    labels[28] = 3
    expected = functional.cross_entropy(scores[labels >= 0], labels[labels >= 0])
    torch.testing.assert_close(detector([image], [target])["loss_classes"], expected)


def test_candidates_are_limited_over_all_classes():
    """Five candidates in all, not five of each class."""
    detector = model(candidates=5)
    detector.detections = DetectionSettings(score_floor=0.0)
    (found,) = detector.candidates([torch.randn(3, 64, 64)])
    assert len(found["boxes"]) == 5


def test_class_aware_rpn_refuses_proposals():
    """It has no second stage that could score them."""
    with pytest.raises(ValueError, match="no second stage"):
        model().candidates([torch.zeros(3, 64, 64)], [torch.zeros(1, 4)])
