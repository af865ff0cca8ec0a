"""The region proposal network against torchvision's own, with the same numbers."""

from dataclasses import replace

import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork

from dcnlab.models.anchors import AnchorPredictions, RPNSettings
from dcnlab.models.rpn import RPN

SIZES = [(96, 160), (128, 112)]
TARGETS = [
    {"boxes": torch.tensor([[10.0, 12, 70, 80], [90, 30, 150, 90]]), "labels": torch.tensor([2, 1])},
    {"boxes": torch.tensor([[20.0, 30, 100, 120]]), "labels": torch.tensor([3])},
]
ANYWHERE = RPNSettings(scales=(2, 4), allowed_border=None)


def predictions(rpn: RPN, height: int = 128, width: int = 160) -> AnchorPredictions:
    generator = torch.Generator().manual_seed(3)
    maps = [torch.randn(2, 6, height // s, width // s, generator=generator) for s in rpn.strides]
    made = rpn(maps)
    noise = torch.randn(made.scores.shape, generator=generator), torch.randn(made.deltas.shape, generator=generator)
    return made._replace(scores=noise[0], deltas=0.3 * noise[1])


def theirs(rpn: RPN) -> RegionProposalNetwork:
    """torchvision's, with the numbers of ours."""
    s = rpn.settings
    numbers = {"training": s.candidates, "testing": s.candidates}, {"training": s.proposals, "testing": s.proposals}
    return RegionProposalNetwork(
        rpn.anchor_generator, rpn, s.positive_iou, s.negative_iou, s.sampled, s.positive_fraction, *numbers, s.nms_iou
    )


@pytest.mark.parametrize("strides", [(16,), (8, 16)])
def test_anchors_equal_torchvisions(strides):
    """AnchorGenerator is the oracle, for one and two strides."""
    rpn = RPN(6, strides)
    sizes = tuple(tuple(scale * stride for scale in (8, 16, 32)) for stride in strides)
    generator = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(strides))
    maps = [torch.zeros(2, 6, 128 // stride, 160 // stride) for stride in strides]
    expected = generator(ImageList(torch.zeros(2, 3, 128, 160), SIZES), maps)[0]
    assert sizes[-1] == (128, 256, 512)
    made = rpn(maps)
    assert torch.equal(made.anchors, expected)
    assert made.per_level == [9 * (128 // stride) * (160 // stride) for stride in strides]


@pytest.mark.parametrize("strides", [(16,), (8, 16)])
def test_proposals_equal_torchvisions(strides):
    """filter_proposals of torchvision's RPN is the oracle."""
    rpn = RPN(6, strides, replace(ANYWHERE, candidates=150, proposals=20))
    made = predictions(rpn)
    sizes = [(128, 160), (128, 160)]
    decoded = rpn.box_coder.decode(made.deltas.reshape(-1, 4), [made.anchors] * 2).view(2, -1, 4)
    expected, _ = theirs(rpn).filter_proposals(decoded, made.scores, sizes, made.per_level)
    found = rpn.proposals(made, sizes)
    assert [len(boxes) for boxes in found] == [20, 20]
    for ours, other in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, other)


def test_rpn_losses_equal_torchvisions_for_the_same_seed():
    """The same seed samples the same anchors, so both losses agree."""
    rpn = RPN(6, [16], replace(ANYWHERE, sampled=40, positive_fraction=0.1))
    made = predictions(rpn)
    sizes = [(128, 160), (128, 160)]
    other = theirs(rpn)
    labels, boxes = other.assign_targets_to_anchors([made.anchors] * 2, TARGETS)
    torch.manual_seed(0)
    expected = other.compute_loss(
        made.scores, made.deltas.flatten(0, 1), labels, other.box_coder.encode(boxes, [made.anchors] * 2)
    )
    torch.manual_seed(0)
    found = rpn.losses(made, sizes, TARGETS)
    torch.testing.assert_close(torch.stack(found), torch.stack(expected))


def test_the_rpn_loss_is_the_mean_of_its_images():
    """Images with different numbers of sampled anchors weigh the same."""
    rpn = RPN(6, [16], replace(ANYWHERE, sampled=10_000))  # all anchors with a label: no draw
    made, sizes = predictions(rpn), [(32, 48), (128, 160)]
    targets = [{"boxes": torch.tensor([[2.0, 2, 30, 30]]), "labels": torch.tensor([1])}, TARGETS[0]]
    alone = [
        torch.stack(
            rpn.losses(made._replace(scores=made.scores[n : n + 1], deltas=made.deltas[n : n + 1]), [size], [t])
        )
        for n, (size, t) in enumerate(zip(sizes, targets, strict=True))
    ]
    together = torch.stack(rpn.losses(made, sizes, targets))
    torch.testing.assert_close(together, torch.stack(alone).mean(0))


def test_padding_gives_no_proposals():
    """Proposals end at the image's border; high scores in its padding have no effect."""
    rpn = RPN(6, [16], ANYWHERE)
    made = predictions(rpn)
    for boxes, (height, width) in zip(rpn.proposals(made, SIZES), SIZES, strict=True):
        assert len(boxes) > 10
        assert boxes.min() >= 0
        assert boxes[:, [0, 2]].max() <= width
        assert boxes[:, [1, 3]].max() <= height
    # Certain scores where only padding is, beyond 96 rows of the first image, come to nothing.
    beyond = (made.anchors[:, 1] + made.anchors[:, 3]) / 2 >= 96
    assert beyond.any()
    loud = made._replace(scores=made.scores + 50 * beyond[None, :, None])
    assert torch.equal(rpn.proposals(loud, SIZES)[0], rpn.proposals(made, SIZES)[0])
    labels, _ = rpn.assign(made.anchors, SIZES[0], TARGETS[0]["boxes"], TARGETS[0]["labels"])
    assert (labels[beyond] == -1).all()


def test_anchors_across_the_border_are_ignored_by_default():
    """They have label -1, those inside are positive, negative or ignored."""
    rpn = RPN(6, [16], RPNSettings(scales=(2, 4)))
    anchors = rpn([torch.zeros(1, 6, 8, 10)]).anchors
    labels, _ = rpn.assign(anchors, (128, 160), TARGETS[0]["boxes"], TARGETS[0]["labels"])
    inside = (anchors[:, :2] >= 0).all(1) & (anchors[:, 2] <= 160) & (anchors[:, 3] <= 128)
    assert 0 < inside.sum() < len(anchors)
    assert (labels[~inside] == -1).all()
    assert set(labels[inside].tolist()) == {-1, 0, 1, 2}


def test_matching_equals_a_hand_worked_case():
    """A box with no good anchor still takes its best one."""
    rpn = RPN(6, [16], RPNSettings(allowed_border=None))
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 20], [0, 5, 10, 15], [0, 12, 10, 22], [40, 40, 50, 50]])
    # Overlaps with the first box: 1, 1/2, 1/3, 0, 0; the second, far smaller than its anchor, 0.04 and no other's.
    boxes = torch.tensor([[0.0, 0, 10, 10], [44, 44, 46, 46]])
    labels, matched = rpn.assign(anchors, (60, 60), boxes, torch.tensor([5, 7]))
    assert labels.tolist() == [5, -1, -1, 0, 7]
    assert torch.equal(matched[[0, 4]], boxes)


def test_a_box_without_overlap_matches_no_anchor():
    """The best anchor has overlap 0 and must not become positive."""
    rpn = RPN(6, [16], RPNSettings(allowed_border=None))
    anchors = torch.tensor([[0.0, 0, 10, 10], [5, 5, 15, 15]])
    labels, _ = rpn.assign(anchors, (60, 60), torch.tensor([[40.0, 40, 50, 50]]), torch.tensor([1]))
    assert labels.tolist() == [0, 0]


def test_images_without_boxes_or_anchors_have_finite_losses():
    """Where no anchor fits the image both losses are 0; all gradients are finite."""
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    for settings, sampled in ((ANYWHERE, True), (RPNSettings(), False)):  # no anchor of 128 pixels fits in 96
        rpn = RPN(6, [16], settings)
        objectness, boxes = rpn.losses(rpn([torch.randn(2, 6, 6, 6)]), [(96, 96), (90, 80)], [empty, empty])
        (objectness + boxes).backward()
        assert boxes.item() == 0
        assert (objectness.item() > 0) is sampled
        assert all(torch.isfinite(p.grad).all() for p in rpn.parameters())


def test_rpn_layers_have_the_papers_sizes():
    """512 channels, nine anchors, weights with std 0.01 and biases of zero."""
    rpn = RPN(1024, [16])
    assert rpn.conv.weight.shape == (512, 1024, 3, 3)
    assert rpn.class_scores.weight.shape == (9, 512, 1, 1)
    assert rpn.box_deltas.weight.shape == (36, 512, 1, 1)
    assert rpn.conv.weight.std().item() == pytest.approx(0.01, rel=0.01)
    assert rpn.conv.bias.abs().max() == 0
    assert RPN(1024, [16], RPNSettings(scales=(4, 8, 16, 32))).class_scores.out_channels == 12
