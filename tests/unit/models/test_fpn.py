"""The pyramid's pooling: the right level for each box, the right row for each output."""

import pytest
import torch
from detection_cases import TinyBackbone
from torch import nn
from torchvision.ops import MultiScaleRoIAlign

from dcnlab.models.fpn import FPNFasterRCNN, PyramidRoIPool

STRIDES = [4, 8, 16, 32]
# Sides on both sides of the steps at 112, 224 and 448 pixels (equation 1), and one beyond each end.
BOXES = [
    torch.tensor([[0.0, 0, 500, 500], [10, 10, 20, 20], [0, 0, 230, 230]]),
    torch.tensor([[0.0, 0, 100, 100], [0, 0, 120, 120], [0, 0, 56, 448], [5, 5, 5, 5], [0, 0, 440, 440]]),
]
LEVELS = [3, 0, 2, 0, 1, 1, 0, 2]


def levels(channels: int, value=lambda number: float(number)) -> list[torch.Tensor]:
    return [torch.full((2, channels, 512 // s, 512 // s), value(n)) for n, s in enumerate(STRIDES)]


@pytest.mark.parametrize("deformable", [False, True])
def test_each_box_is_pooled_from_the_level_of_its_size(deformable):
    """Maps that hold their level's number show which one was read."""
    pool = PyramidRoIPool(2, STRIDES, 3, deformable)
    pooled = pool(levels(2), BOXES)
    assert pooled.shape == (8, 2, 3, 3)
    torch.testing.assert_close(pooled, torch.tensor(LEVELS).float()[:, None, None, None].expand(8, 2, 3, 3))
    assert pool.level_of(BOXES).tolist() == LEVELS


def test_box_levels_equal_torchvisions():
    """MultiScaleRoIAlign chooses the same level for each box size."""
    maps = {str(number): features for number, features in enumerate(levels(1))}
    theirs = MultiScaleRoIAlign(list(maps), 1, 2)(maps, BOXES, [(512, 512)] * 2)
    assert theirs.flatten().tolist() == LEVELS


def test_boxes_are_read_from_their_own_image():
    """The second image's maps are 10 higher on each level."""
    maps = levels(1)
    for features in maps:
        features[1] += 10
    pooled = PyramidRoIPool(1, STRIDES, 1)(maps, BOXES).flatten()
    assert pooled.tolist() == [level + 10 * (row >= 3) for row, level in enumerate(LEVELS)]


def test_each_level_has_its_own_offset_layer():
    """Levels without boxes still get a zero gradient, which other ranks wait for."""
    pool = PyramidRoIPool(1, STRIDES, 3, deformable=True)
    noise = [torch.randn_like(features) for features in levels(1)]
    pool(noise, [BOXES[0][1:2], BOXES[1][:1]]).square().sum().backward()  # both of the finest level
    gradients = [level.offset_fc.weight.grad.abs().sum().item() for level in pool.levels]
    assert gradients[0] > 0
    assert gradients[1:] == [0, 0, 0]


def test_the_rpn_has_one_scale_on_five_levels():
    """Three aspect ratios on each of five levels with strides 4 to 64."""
    model = FPNFasterRCNN(TinyBackbone((4, 8, 16, 32)), 2, channels=8, fc_channels=8)
    images = torch.zeros(1, 3, 128, 192)
    maps = model.maps(images)
    predictions = model.propose(maps)
    grids = [(32, 48), (16, 24), (8, 12), (4, 6), (2, 3)]
    assert [tuple(features.shape[-2:]) for features in maps.values()] == grids
    assert predictions.per_level == [3 * height * width for height, width in grids]
    first = 0
    for stride, count in zip((4, 8, 16, 32, 64), predictions.per_level, strict=True):
        square = predictions.anchors[first + 1]  # the second of three ratios, at the first place
        assert square.tolist() == [-4 * stride, -4 * stride, 4 * stride, 4 * stride]
        assert (predictions.anchors[first + 4] - square).tolist() == [stride, 0, stride, 0]
        first += count


def test_a_backbone_of_output_stride_16_is_refused():
    with pytest.raises(ValueError, match="this one's are 4, 8, 16, 16"):
        FPNFasterRCNN(TinyBackbone((4, 8, 16, 16)), 2)


def test_new_layers_are_random_and_offsets_start_at_zero():
    """Weights of the pyramid and of the head have std 0.01."""
    model = FPNFasterRCNN(TinyBackbone((4, 8, 16, 32)), 2, deform_pooling=True)
    convs = [module for module in model.pyramid.modules() if isinstance(module, nn.Conv2d)]
    assert all(conv.weight.std().item() == pytest.approx(0.01, rel=0.1) for conv in convs)
    assert model.head.fc1.weight.std().item() == pytest.approx(0.01, rel=0.01)
    assert all(level.offset_fc.weight.abs().max() == 0 for level in model.pool.levels)
