"""R-FCN's head on score maps made by hand."""

import pytest
import torch
from detection_cases import TinyBackbone
from torchvision.ops import ps_roi_pool

from dcnlab.models.rfcn import RFCN

BINS = 7
WHOLE = torch.tensor([[0.0, 0, 223, 223]])
"""A box over all of a map of 28x28 at stride 8: bins of 4x4 pixels of the map."""


@pytest.fixture
def model():
    return RFCN(TinyBackbone(), 2, deform_pooling=False)


def maps(scores: torch.Tensor, boxes: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
    boxes = torch.zeros(1, 8 * BINS**2, *scores.shape[-2:]) if boxes is None else boxes
    return {"res4": scores, "reduced": scores, "scores": scores, "boxes": boxes}


def lit(place) -> torch.Tensor:
    """(49, 28, 28): the map of bin (i, j) is 1 at bin `place(i, j)`, with the pixel around that its samples touch."""
    made = torch.zeros(BINS, BINS, 28, 28)
    for i in range(BINS):
        for j in range(BINS):
            y, x = (4 * cell for cell in place(i, j))
            made[i, j, max(0, y - 1) : y + 4, max(0, x - 1) : x + 4] = 1
    return made.view(BINS**2, 28, 28)


def test_each_bin_reads_its_class_and_cell(model):
    """Maps lit in a single cell; mirrored and shifted maps must miss."""
    silent = torch.zeros(BINS**2, 28, 28)
    right, mirrored = lit(lambda i, j: (i, j)), lit(lambda i, j: (6 - i, 6 - j))
    scores, _ = model.classify(maps(torch.cat((silent, right, mirrored))[None]), [WHOLE])
    # The mirrored maps have only their middle bin where it is looked for.
    torch.testing.assert_close(scores, torch.tensor([[0.0, 1.0, 1 / 49]]))
    shifted = torch.cat((lit(lambda i, j: (i, (j + 3) % 7)), lit(lambda i, j: ((i + 3) % 7, j)), right))
    scores, _ = model.classify(maps(shifted[None]), [WHOLE])
    torch.testing.assert_close(scores, torch.tensor([[0.0, 0.0, 1.0]]))


def test_score_maps_follow_torchvisions_channel_order(model):
    """On maps constant in space, the scores equal those of torchvision's ps_roi_pool."""
    # On maps that are constant in space the two differ in nothing but the order of the channels.
    values = torch.randn(1, 3 * BINS**2, 1, 1, generator=torch.Generator().manual_seed(0)).expand(-1, -1, 28, 28)
    boxes = torch.tensor([[30.0, 20, 150, 120], [5, 60, 200, 210]])
    scores, _ = model.classify(maps(values), [boxes])
    expected = ps_roi_pool(values.contiguous(), [boxes], BINS, 1 / 8).mean((2, 3))
    torch.testing.assert_close(scores, expected)


def test_boxes_use_the_last_four_of_eight_channels(model):
    """As in the authors' network, whose first four are of the background."""
    of_channel = torch.arange(8.0).repeat_interleave(BINS**2)[None, :, None, None].expand(-1, -1, 28, 28)
    _, deltas = model.classify(maps(torch.zeros(1, 3 * BINS**2, 28, 28), of_channel), [WHOLE])
    torch.testing.assert_close(deltas, torch.tensor([[[0.0, 1, 2, 3], [4, 5, 6, 7]]]))


def test_offsets_of_a_class_move_its_bins_alone():
    """Offsets of class 1 move its bins off the map; class 2 and the boxes stay."""
    model = RFCN(TinyBackbone(), 2, deform_pooling=True, channels=3)
    with torch.no_grad():
        # A bias of 10 in the x offsets of class 1: its bins move by gamma * 10 widths, off the map.
        bias = model.score_pool.offset_conv.bias.view(3, 2, BINS**2)
        bias[1, 0] = 20.0
    reduced, ones = torch.zeros(1, 3, 28, 28), torch.ones(1, 3 * BINS**2, 28, 28)
    made = maps(ones, torch.ones(1, 8 * BINS**2, 28, 28)) | {"reduced": reduced}
    scores, deltas = model.classify(made, [WHOLE])
    torch.testing.assert_close(scores, torch.tensor([[1.0, 0.0, 1.0]]))
    torch.testing.assert_close(deltas, torch.ones(1, 2, 4))
