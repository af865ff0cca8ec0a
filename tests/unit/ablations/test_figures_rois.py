"""Shifted bins against where the operator pools from, and of which class and level they are in each detector."""

import pytest
import torch

from dcnlab.ablations.analysis.figure_rois import has_deformable_pooling, pooled_rois, shifted_bins
from dcnlab.models.anchors import RPNSettings
from dcnlab.models.backbone import backbone
from dcnlab.models.class_aware_rpn import ClassAwareRPN
from dcnlab.models.faster_rcnn import FasterRCNN
from dcnlab.models.fpn import FPN_RPN, FPNFasterRCNN
from dcnlab.models.rfcn import RFCN
from dcnlab.nn import DeformPSRoIPool, DeformRoIPool
from dcnlab.ops import deform_ps_roi_pool


def test_bins_without_offsets_fill_the_roi():
    """Corners are rounded with halves away from zero, and the last pixel belongs to the box."""
    # Corners are rounded, halves away from zero, and the last pixel belongs to the box: 2.5..11.4 is 3 to 12.
    (bins,) = shifted_bins(torch.tensor([[2.5, 4.0, 11.4, 9.0]]), torch.zeros(1, 2, 3, 3), 0.1)
    assert bins[0, 0].tolist() == pytest.approx([3, 4, 6, 6])
    assert bins[2, 1].tolist() == pytest.approx([6, 8, 9, 10])
    assert bins[2, 2].tolist() == pytest.approx([9, 8, 12, 10])


def test_a_bin_moves_by_its_offset_times_the_rois_size():
    """Offsets are fractions of the RoI's width and height, times gamma 0.1."""
    offset = torch.zeros(1, 2, 2, 2)
    offset[0, 0, 0, 1], offset[0, 1, 1, 0] = 5, -2  # x of the upper right bin, y of the lower left one
    (bins,) = shifted_bins(torch.tensor([[0.0, 0.0, 19.0, 9.0]]), offset, 0.1)
    assert bins[0, 1].tolist() == pytest.approx([10 + 0.5 * 20, 0, 20 + 0.5 * 20, 5])
    assert bins[1, 0].tolist() == pytest.approx([0, 5 - 0.2 * 10, 10, 10 - 0.2 * 10])
    assert bins[0, 0].tolist() == pytest.approx([0, 0, 10, 5])


@pytest.mark.parametrize("scale", [1.0, 0.25, 1 / 16])
def test_the_operator_pools_from_the_drawn_bins(scale):
    """On maps of their own coordinates, a bin pools the mean location of its samples."""
    torch.manual_seed(0)
    size, samples = 40, 4
    column, row = torch.meshgrid(*[torch.arange(size, dtype=torch.float64)] * 2, indexing="xy")
    boxes = torch.rand(6, 4, dtype=torch.float64) * torch.tensor([8, 8, 14, 14]) + torch.tensor([8, 8, 18, 18])
    boxes = boxes / scale
    offset = torch.randn(6, 2, 7, 7, dtype=torch.float64)
    rois = torch.cat((torch.zeros(6, 1), boxes), 1)
    pooled = deform_ps_roi_pool(torch.stack((column, row))[None], rois, offset, 7, scale, samples_per_bin=samples)
    bins = shifted_bins(boxes, offset, 0.1)
    # Samples start at the bin's corner; pixel m of the map spans m to m + 1 of the scaled image.
    mean = bins[..., :2] + (bins[..., 2:] - bins[..., :2]) * (samples - 1) / (2 * samples)
    torch.testing.assert_close(pooled.permute(0, 2, 3, 1), mean * scale - 0.5)


RPN = RPNSettings(scales=(2, 4), hidden_channels=16, candidates=50, proposals=12, allowed_border=None)


def rfcn():
    return RFCN(backbone("resnet10_slim", dilation=1), 3, deform_pooling=True, channels=16, rpn=RPN)


def faster_rcnn():
    return FasterRCNN(
        backbone("resnet10_slim", dilation=1), 3, deform_pooling=True, channels=16, fc_channels=16, rpn=RPN
    )


def pyramid():
    feet = backbone("resnet18", output_stride=32, dilation=1)
    return FPNFasterRCNN(feet, 3, deform_pooling=True, channels=8, fc_channels=16, rpn=FPN_RPN)


@pytest.mark.parametrize("make", [rfcn, faster_rcnn, pyramid])
def test_drawn_bins_belong_to_the_rois_class_and_level(make):
    """A bias gives each class of R-FCN, or level of the FPN, one offset; x and y differ."""
    torch.manual_seed(0)
    model = make().eval()
    shifts = {}
    for number, (name, pool) in enumerate(sorted(model.named_modules())):
        if isinstance(pool, DeformPSRoIPool):
            shifts[name] = (10.0 * number + torch.arange(2.0 * pool.classes)) / 20
            torch.nn.init.zeros_(pool.offset_conv.weight)
            pool.offset_conv.bias.data = shifts[name].repeat_interleave(pool.group_size**2)
        elif isinstance(pool, DeformRoIPool):
            shifts[name] = torch.tensor([number / 10, number / 5])
            torch.nn.init.zeros_(pool.offset_fc.weight)
            pool.offset_fc.bias.data = shifts[name].repeat_interleave(pool.output_size**2)
    found = pooled_rois(model, torch.randn(3, 64, 96), 0.0, 5)
    assert found
    assert [roi.score for roi in found] == sorted((roi.score for roi in found), reverse=True)
    for roi in found:
        if make is rfcn:
            expected = shifts["score_pool"].view(-1, 2)[roi.label]
        elif make is pyramid:
            expected = shifts[f"pool.levels.{int(model.pool.level_of([roi.box[None]]))}"]
        else:
            expected = shifts["pool"]
        left, top, right, bottom = roi.box.round().tolist()
        extent = torch.tensor([right + 1 - left, bottom + 1 - top], dtype=torch.float64)
        moved = (roi.bins[0, 0, :2] - torch.tensor([left, top])) / extent / 0.1
        torch.testing.assert_close(moved, expected.double(), atol=1e-4, rtol=0)
        torch.testing.assert_close(roi.bins[3, 3, 2:] - roi.bins[3, 3, :2], extent / 7)


def test_the_best_roi_is_shown_below_the_score_limit():
    """Where no RoI reaches the score, one is shown, so that the figure is not empty."""
    torch.manual_seed(0)
    model, image = rfcn().eval(), torch.randn(3, 64, 64)
    best = pooled_rois(model, image, 0.0, 5)[0]
    (shown,) = pooled_rois(model, image, 1.0, 5)
    assert shown.score == best.score < 1
    assert shown.box.tolist() == best.box.tolist()


def test_class_aware_rpn_has_no_deformable_pooling():
    assert has_deformable_pooling(rfcn())
    assert not has_deformable_pooling(ClassAwareRPN(backbone("resnet10_slim"), 3, channels=8))
