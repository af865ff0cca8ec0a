"""The RoI poolings with their offset branches: plain until they learn."""

import pytest
import torch
from torch import nn

from dcnlab.nn import DeformPSRoIPool, DeformRoIPool
from dcnlab.ops import reference

BOXES = torch.tensor([[0, 3.0, 5, 40, 31], [1, 10, 2, 33, 47], [1, 0, 0, 47, 47]], dtype=torch.float64)
SCALE = 0.2371


def features(channels: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(2, channels, 12, 12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_new_roi_pool_equals_plain_pooling():
    """Zero offsets give the reference operator's output without offsets."""
    layer = DeformRoIPool(5, 3, SCALE, dtype=torch.float64)
    expected = reference.deform_ps_roi_pool(features(5), BOXES, None, 3, SCALE)
    torch.testing.assert_close(layer(features(5), BOXES), expected)


@pytest.mark.parametrize(("group_size", "maps"), [(None, 6 * 9), (1, 6), (2, 6 * 4)])
def test_a_new_ps_roi_pool_equals_plain_pooling(group_size, maps):
    """Zero offsets, for each group size, give the reference without offsets."""
    layer = DeformPSRoIPool(4, 3, 3, SCALE, group_size, dtype=torch.float64)
    expected = reference.deform_ps_roi_pool(features(maps), BOXES, None, 3, SCALE, group_size or 3)
    torch.testing.assert_close(layer(features(4), features(maps), BOXES), expected)


def test_a_trained_roi_pool_moves_bins_by_its_fc_layer():
    """The offsets are the fully connected layer's output for the pooled features."""
    layer = DeformRoIPool(5, 3, SCALE, samples_per_bin=2, gamma=0.2, dtype=torch.float64)
    nn.init.normal_(layer.offset_fc.weight)
    nn.init.normal_(layer.offset_fc.bias)
    pooled = reference.deform_ps_roi_pool(features(5), BOXES, None, 3, SCALE, samples_per_bin=2)
    offset = pooled.reshape(3, 45) @ layer.offset_fc.weight.T + layer.offset_fc.bias
    assert layer.offset_fc.weight.shape == (2 * 9, 5 * 9)
    expected = reference.deform_ps_roi_pool(
        features(5), BOXES, offset.view(3, 2, 3, 3), 3, SCALE, samples_per_bin=2, gamma=0.2
    )
    torch.testing.assert_close(layer(features(5), BOXES), expected)
    assert (expected - pooled).abs().max() > 0.1


def test_a_trained_ps_roi_pool_moves_bins_by_class():
    """Each class has offsets pooled from its own maps; the result equals the reference operator."""
    layer = DeformPSRoIPool(4, 3, 3, SCALE, dtype=torch.float64)
    nn.init.normal_(layer.offset_conv.weight)
    assert layer.offset_conv.weight.shape == (2 * 9 * 3, 4, 1, 1)
    maps = torch.einsum("nchw,oc->nohw", features(4), layer.offset_conv.weight[:, :, 0, 0])
    offset = reference.deform_ps_roi_pool(maps, BOXES, None, 3, SCALE, 3)
    assert offset.shape == (3, 6, 3, 3)
    expected = reference.deform_ps_roi_pool(features(54), BOXES, offset, 3, SCALE, 3)
    torch.testing.assert_close(layer(features(4), features(54), BOXES), expected)


def test_offset_branches_learn_from_the_first_step():
    """Weights and bias of both branches have a gradient at zero offsets."""
    plain, sensitive = DeformRoIPool(5, 3, SCALE).double(), DeformPSRoIPool(4, 3, 3, SCALE).double()
    plain(features(5), BOXES).square().sum().backward()
    sensitive(features(4), features(54), BOXES).square().sum().backward()
    for branch in (plain.offset_fc, sensitive.offset_conv):
        assert branch.weight.grad.abs().sum() > 0
        assert branch.bias.grad.abs().sum() > 0


def test_boxes_may_be_a_list_or_empty():
    """A list with one tensor for each image works; no boxes give no rows and a backward pass."""
    layer = DeformRoIPool(5, 3, SCALE).double()
    parts = [BOXES[:1, 1:], BOXES[1:, 1:]]
    torch.testing.assert_close(layer(features(5), parts), layer(features(5), BOXES))
    none = layer(features(5), [BOXES[:0, 1:]] * 2)
    assert none.shape == (0, 5, 3, 3)
    none.sum().backward()
    sensitive = DeformPSRoIPool(4, 3, 3, SCALE).double()
    assert sensitive(features(4), features(54), BOXES[:0]).shape == (0, 6, 3, 3)


def test_faster_rcnn_offset_branch_has_1_23_m_weights():
    """7x7x256 features to 98 offsets, part of the 1.5M that the paper's table 4 adds."""
    # 7x7x256 features to 98 offsets: 1.23M weights, of the 1.5M that deformable pooling and convolutions add (table 4).
    assert sum(p.numel() for p in DeformRoIPool(256).parameters()) == 7 * 7 * 256 * 98 + 98


def test_roi_pool_reprs_show_their_sizes():
    """Channels, classes, output size and spatial scale."""
    assert "256, output_size=7, spatial_scale=0.0625" in repr(DeformRoIPool(256, spatial_scale=0.0625))
    assert "1024, classes=21, output_size=7" in repr(DeformPSRoIPool(1024, 21))
