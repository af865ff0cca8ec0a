"""Turned and magnified images, against quarter turns by torch and pixels worked out by hand."""

import pytest
import torch

from dcnlab.data.classification.rotation import turn


@pytest.mark.parametrize("size", [8, 9])
@pytest.mark.parametrize("quarters", [-1, 1, 2, 3, 5])
@pytest.mark.parametrize("background", [0.0, -3.0])
def test_quarter_rotations_equal_torch_rot90(size, quarters, background):
    """Positive angles are counter-clockwise, for even and odd sizes."""
    images = torch.randn(2, 3, size, size)
    expected = torch.rot90(images, quarters, (-2, -1))
    torch.testing.assert_close(turn(images, 90.0 * quarters, background=background), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("rotation", [0.0, 360.0, -360.0])
def test_no_rotation_returns_the_same_tensor(rotation):
    """Rotation by 0 or 360 degrees at scale 1 copies nothing."""
    images = torch.randn(2, 3, 7, 10)
    assert turn(images, rotation, 1.0, 5.0) is images


def test_pixels_are_interpolated_about_the_centre():
    """A ramp enlarged twice gives values at quarters, worked out by hand."""
    column = torch.arange(4.0)[:, None].expand(4, 4)[None]
    assert turn(column, magnification=2.0)[0, :, 0].tolist() == pytest.approx([0.75, 1.25, 1.75, 2.25])


def test_pixels_outside_the_image_are_background():
    """At 0.8 the first pixel shows what lies a quarter of a pixel outside the image's first."""
    row = torch.tensor([[[1.0, 2.0, 4.0]]])
    expected = [0.75 * 1 + 0.25 * -8, 2.0, 0.75 * 4 + 0.25 * -8]
    assert turn(row, magnification=0.8, background=-8.0).flatten().tolist() == pytest.approx(expected, abs=1e-5)
    assert turn(row, magnification=0.4, background=-8.0).flatten().tolist() == pytest.approx([-8, 2, -8], abs=1e-5)


def test_rotation_gives_the_same_for_one_image_and_a_batch():
    """An image of a batch equals the same image rotated alone, bit for bit."""
    images = torch.randn(3, 3, 11, 11)
    assert torch.equal(turn(images, 30.0, 1.3)[1], turn(images[1], 30.0, 1.3))
