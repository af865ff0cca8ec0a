"""Sampling and losses of the heads, and the choice of detections, against torchvision's and by hand."""

import math

import pytest
import torch
from torchvision.models.detection.roi_heads import RoIHeads

from dcnlab.models.detector import DetectionSettings
from dcnlab.models.roi_sampling import RoISampling, SampledRoIs, roi_losses

TARGETS = [
    {"boxes": torch.tensor([[10.0, 12, 70, 80], [90, 30, 150, 90]]), "labels": torch.tensor([2, 1])},
    {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
]


def theirs(**numbers) -> RoIHeads:
    given = {"rois": 128, "score": 1e-3, "nms": 0.3, "most": 300} | numbers
    weights = (10.0, 10.0, 5.0, 5.0)
    return RoIHeads(
        None, None, None, 0.5, 0.5, given["rois"], 0.25, weights, given["score"], given["nms"], given["most"]
    )


def proposals(count: int = 200) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    places = torch.rand(2, count, 2, generator=generator) * 100
    sizes = 20 + torch.rand(2, count, 2, generator=generator) * 60
    near = TARGETS[0]["boxes"].repeat(10, 1) + torch.randn(20, 4, generator=generator) * 5
    first, second = torch.cat((places, places + sizes), 2)
    return [torch.cat((first, near)), second]


def test_sampling_equals_torchvisions_for_the_same_seed():
    """Boxes, labels and regression targets of RoIHeads are the oracle."""
    torch.manual_seed(0)
    boxes, _, labels, box_targets = theirs(rois=24).select_training_samples(proposals(), TARGETS)
    torch.manual_seed(0)
    found = RoISampling(rois=24).sample(proposals(), TARGETS)
    for ours, other in zip(found.boxes, boxes, strict=True):
        torch.testing.assert_close(ours, other)
    assert torch.equal(found.labels, torch.cat(labels))
    positive = found.labels > 0
    assert positive.sum() == 6
    torch.testing.assert_close(found.box_targets[positive], torch.cat(box_targets)[positive])
    assert (found.box_targets[~positive] == 0).all()


def test_negatives_need_a_minimum_overlap():
    """least_negative_iou=0.1 drops far proposals, but not in an image without boxes."""
    boxes = [torch.tensor([[200.0, 200, 220, 220], [10, 12, 70, 34]]), torch.tensor([[0.0, 0, 5, 5]])]
    found = RoISampling(least_negative_iou=0.1).sample(boxes, TARGETS)
    assert [len(part) for part in found.boxes] == [3, 1]  # the second proposal and both objects; the background
    assert sorted(found.labels[:3].tolist()) == [0, 1, 2]
    assert found.labels[3] == 0


def test_ohem_uses_all_proposals_and_objects():
    """With rois=None nothing is sampled: 222 and 200 RoIs."""
    found = RoISampling(rois=None).sample(proposals(), TARGETS)
    assert [len(boxes) for boxes in found.boxes] == [222, 200]


def test_no_proposals_and_no_boxes_give_zero_losses():
    """The losses are 0 with and without OHEM, and the backward pass works."""
    scores, deltas = torch.zeros(0, 3, requires_grad=True), torch.zeros(0, 3, 4, requires_grad=True)
    rois = RoISampling().sample([torch.zeros(0, 4)], TARGETS[1:])
    assert len(rois.labels) == 0
    for hardest in (None, 128):
        losses = roi_losses(scores, deltas, rois, hardest)
        sum(losses).backward()
        assert [loss.item() for loss in losses] == [0, 0]


def hand_case():
    """Two images with two RoIs each and two classes; logits chosen so that probabilities are simple fractions."""
    probabilities = torch.tensor([[0.5, 0.25, 0.25], [0.125, 0.75, 0.125], [0.8, 0.1, 0.1], [0.25, 0.25, 0.5]])
    labels = torch.tensor([0, 1, 0, 2])
    deltas = torch.zeros(4, 3, 4)
    deltas[1, 1] = torch.tensor([0.5, 0.0, 0.0, 3.0])  # against zeros: 0.5^2 / 2 + 3 - 0.5 = 2.625
    deltas[3, 2] = torch.tensor([0.0, 1.0, 0.0, 0.0])  # 0.5
    deltas[0] = deltas[2] = 9.0  # the background's are not read
    deltas[1, 2] = deltas[3, 1] = 9.0  # nor the other classes'
    return probabilities.log(), deltas, SampledRoIs([torch.zeros(2, 4)] * 2, labels, torch.zeros(4, 4))


def test_roi_losses_equal_a_hand_worked_case():
    """Cross-entropy and smooth L1 over four RoIs."""
    classes, boxes = roi_losses(*hand_case())
    assert classes.item() == pytest.approx((math.log(2) - math.log(0.75) - math.log(0.8) + math.log(2)) / 4)
    assert boxes.item() == pytest.approx((2.625 + 0.5) / 4)


@pytest.mark.parametrize("hardest", [None, 2])
def test_images_weigh_equally_whatever_their_rois(hardest):
    """Images of one and three RoIs, with and without OHEM, by hand."""
    scores, deltas, rois = hand_case()
    uneven = rois._replace(boxes=[torch.zeros(1, 4), torch.zeros(3, 4)])
    classes, boxes = roi_losses(scores, deltas, uneven, hardest)
    # Mining leaves out of the second image the RoI of the least loss, -log 0.8.
    second = -math.log(0.75) + math.log(2) - (0 if hardest else math.log(0.8))
    counted = hardest or 3
    assert classes.item() == pytest.approx((math.log(2) + second / counted) / 2)
    assert boxes.item() == pytest.approx((0 + (2.625 + 0.5) / counted) / 2)


def test_ohem_keeps_each_images_hardest_roi_by_both_losses():
    """Class and box loss are added to choose; only the chosen RoIs get a gradient."""
    scores, deltas, rois = hand_case()
    scores.requires_grad_()
    # Image 1: log 2 = 0.69 against -log 0.75 + 2.625 = 2.91. Image 2: 0.22 against log 2 + 0.5.
    classes, boxes = roi_losses(scores, deltas, rois, hardest=1)
    assert classes.item() == pytest.approx((-math.log(0.75) + math.log(2)) / 2)
    assert boxes.item() == pytest.approx((2.625 + 0.5) / 2)
    classes.backward()
    assert scores.grad.abs().sum(1).gt(0).tolist() == [False, True, False, True]


def test_class_agnostic_boxes_serve_every_label():
    """Deltas of one box for all classes are read for each label."""
    scores, _, rois = hand_case()
    deltas = torch.zeros(4, 2, 4)
    deltas[:, 0] = 9.0
    deltas[:, 1, 0] = 2.0
    assert roi_losses(scores, deltas, rois)[1].item() == pytest.approx(2 * 1.5 / 4)


@pytest.mark.parametrize("most", [300, 7])
def test_detections_equal_torchvisions(most):
    """RoIHeads' postprocessing is the oracle, with 300 and 7 detections at most."""
    generator = torch.Generator().manual_seed(2)
    rois = proposals(60)[0]
    logits, deltas = torch.randn(80, 4, generator=generator), torch.randn(80, 16, generator=generator)
    heads = theirs(most=most, score=0.05)
    boxes, scores, labels = heads.postprocess_detections(logits, deltas, [rois], [(120, 160)])
    settings = DetectionSettings(score_floor=0.05, max_detections=most)
    decoded = RoISampling().box_coder.decode_single(deltas[:, 4:], rois).view(80, 3, 4)
    found = settings.suppress(settings.scored(logits.softmax(1)[:, 1:], decoded, (120, 160)))
    assert len(found["boxes"]) == len(boxes[0]) > 5
    torch.testing.assert_close(found["boxes"], boxes[0])
    torch.testing.assert_close(found["scores"], scores[0])
    assert torch.equal(found["labels"], labels[0])


def test_only_the_highest_scores_are_kept():
    """With most=2 of four candidates, the two highest scores stay, over all classes."""
    scores = torch.tensor([[0.5, 0.1], [0.2, 0.9]])
    boxes = torch.tensor([[[0.0, 0, 5, 5]], [[5.0, 5, 9, 9]]])
    found = DetectionSettings().scored(scores, boxes, (10, 10), most=2)
    assert found["labels"].tolist() == [2, 1]
    assert found["boxes"].tolist() == [[5, 5, 9, 9], [0, 0, 5, 5]]
