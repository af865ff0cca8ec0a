"""Effective dilation against cases worked by hand, and which box a filter's centre belongs to."""

import math
import statistics

import pytest
import torch

from dcnlab.metrics.dilation_sizes import SIZES
from dcnlab.metrics.effective_dilation import Spread, effective_dilation, size_of_positions


def scaled_grid(scale, dilation, kh=3, kw=3):
    """Offsets (1, 2 kh kw, 1, 1) that spread the grid about its middle by a factor."""
    pairs = []
    for i in range(kh):
        for j in range(kw):
            pairs += [(scale - 1) * dilation * (i - (kh - 1) / 2), (scale - 1) * dilation * (j - (kw - 1) / 2)]
    return torch.tensor(pairs).view(1, -1, 1, 1)


@pytest.mark.parametrize("dilation", [1, 2, 4, 6])
@pytest.mark.parametrize(("kernel", "dtype"), [(3, torch.float32), ((3, 5), torch.bfloat16), ((1, 3), torch.float64)])
def test_zero_offsets_give_the_dilation_exactly(kernel, dtype, dilation):
    taps = kernel**2 if isinstance(kernel, int) else kernel[0] * kernel[1]
    found = effective_dilation(torch.zeros(2, 2 * taps, 4, 5, dtype=dtype), kernel, dilation)
    assert found.shape == (2, 4, 5)
    assert (found == dilation).all()


def test_offsets_that_scale_the_grid_scale_the_dilation():
    """Factors from 0 to 3, also for kernels of even size."""
    for scale in (0.0, 0.5, 1.0, 1.75, 3.0):
        for dilation in (1, 2):
            assert effective_dilation(scaled_grid(scale, dilation), 3, dilation).item() == pytest.approx(
                scale * dilation, abs=1e-6
            )
            assert effective_dilation(scaled_grid(scale, dilation, 2, 4), (2, 4), dilation).item() == pytest.approx(
                scale * dilation, abs=1e-6
            )


def test_translating_or_rotating_the_grid_changes_nothing():
    """Distances between neighbours do not depend on either."""
    offset = torch.zeros(1, 18, 1, 1)
    offset[:, 0::2], offset[:, 1::2] = 3.5, -7.25
    assert effective_dilation(offset, 3, 2).item() == 2
    points = torch.cartesian_prod(torch.arange(-1.0, 2), torch.arange(-1.0, 2))
    angle = 0.7
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    turned = (points @ turn.T - points).reshape(1, 18, 1, 1)
    assert effective_dilation(turned, 3, 1).item() == pytest.approx(1, abs=1e-6)


def test_one_moved_corner_is_worked_by_hand():
    """Two of twelve neighbour distances change; the mean is computed by hand."""
    # The upper left point of a 3x3 grid of dilation 2 moves by (y, x) = (-1, -3): its right neighbour is then at
    # distance hypot(1, 5), its lower one at hypot(3, 3); the other ten pairs stay at 2.
    offset = torch.zeros(1, 18, 1, 2)
    offset[0, 0, 0, 1], offset[0, 1, 0, 1] = -1, -3
    expected = (10 * 2 + math.sqrt(26) + math.sqrt(18)) / 12
    found = effective_dilation(offset, 3, 2)
    assert found[0, 0].tolist() == pytest.approx([2, expected], abs=1e-6)


def test_a_moved_centre_changes_four_distances():
    """Swapping y and x of the offsets would give another mean."""
    # (y, x) = (0, 1) at dilation 1: left at 2, right at 0, above and below at sqrt(2).
    offset = torch.zeros(1, 18, 1, 1)
    offset[0, 9] = 1
    assert effective_dilation(offset, 3, 1).item() == pytest.approx((8 + 2 + 0 + 2 * math.sqrt(2)) / 12, abs=1e-6)
    # A 1x3 filter whose middle moves so: (2 + 0) / 2; moved downwards instead: sqrt(2).
    row = torch.zeros(1, 6, 1, 2)
    row[0, 3, 0, 0], row[0, 2, 0, 1] = 1, 1
    assert effective_dilation(row, (1, 3), 1)[0, 0].tolist() == pytest.approx([1, math.sqrt(2)], abs=1e-6)


def test_groups_of_channels_are_averaged():
    offset = torch.cat([scaled_grid(2, 1), torch.zeros(1, 18, 1, 1), scaled_grid(3, 1)], 1)
    assert effective_dilation(offset, 3, 1).item() == pytest.approx(2, abs=1e-6)


def test_unequal_dilations_are_the_mean_of_their_pairs():
    # 2x3 points: 3 vertical pairs at 4 pixels, 4 horizontal ones at 1.
    assert effective_dilation(torch.zeros(1, 12, 1, 1), (2, 3), (4, 1)).item() == pytest.approx((3 * 4 + 4) / 7)


@pytest.mark.parametrize(("channels", "kernel"), [(16, 3), (0, 3), (2, 1)])
def test_offsets_of_another_kernel_are_refused(channels, kernel):
    """A wrong channel count and a kernel of one point name their argument."""
    with pytest.raises(ValueError, match=r"^(offset|kernel_size): "):
        effective_dilation(torch.zeros(1, channels, 2, 2), kernel, 1)


def sizes_at(points, boxes, areas=None, **more):
    boxes = torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4)
    own = (boxes[:, 2:] - boxes[:, :2]).prod(1) if areas is None else torch.tensor(areas)
    y, x = (torch.tensor(values, dtype=torch.float64) for values in zip(*points, strict=True))
    return [SIZES[at] if at >= 0 else None for at in size_of_positions(y, x, boxes, own, **more).diagonal().tolist()]


def test_boundaries_belong_to_medium():
    """Sides of exactly 96 and 224 pixels are medium."""
    sides = {95.9: "small", 96: "medium", 96.1: "medium", 223.9: "medium", 224: "medium", 224.1: "large"}
    for side, name in sides.items():
        assert sizes_at([(50, 50)], [[0, 0, side, side]]) == [name], side
    assert sizes_at([(5, 5)], [[0, 0, 10, 10]], sides=(10, 20)) == ["medium"]
    assert sizes_at([(5, 5)], [[0, 0, 10, 10]], areas=[60000.0]) == ["large"]


def test_a_position_takes_the_smallest_box_around_it():
    """The order of boxes has no influence, a box's right and bottom edge is outside."""
    large, small = [0, 0, 300, 300], [100, 100, 150, 150]
    for boxes in ([large, small], [small, large]):
        points = [(120, 120), (99.9, 120), (100, 149.9), (150, 120), (120, 150), (300, 20), (299, 0)]
        expected = ["small", "large", "small", "large", "large", "background", "large"]
        assert sizes_at(points, boxes) == expected
    assert sizes_at([(1, 1)], []) == ["background"]


def test_crowds_are_ignored_but_hide_no_object():
    """A position in a crowd counts for the object around it, or not at all."""
    crowd, person = [0, 0, 90, 90], [0, 0, 300, 300]
    hidden = torch.tensor([True, False])
    assert sizes_at([(10, 10), (400, 10)], [crowd, person], left_out=hidden) == ["large", "background"]
    assert sizes_at([(10, 10)], [crowd], left_out=hidden[:1]) == [None]


def test_parts_combine_to_the_std_of_the_whole():
    """Values around 1e6 would lose digits in a naive sum of squares."""
    random = torch.Generator().manual_seed(0)
    parts = [torch.rand(size, generator=random, dtype=torch.float64) + 1e6 for size in (3, 0, 1, 17)]
    spread = Spread()
    for part in parts:
        spread.update(part)
    whole = torch.cat(parts).tolist()
    summary = spread.summary()
    assert summary["count"] == 21
    assert summary["mean"] == pytest.approx(statistics.fmean(whole), rel=1e-12)
    assert summary["std"] == pytest.approx(statistics.pstdev(whole), rel=1e-9)
    assert Spread().summary() is None
