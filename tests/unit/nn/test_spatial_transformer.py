"""SpatialTransformer: the identity until its localisation net learns, then what torch's grid_sample computes."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from dcnlab.nn import SpatialTransformer


def with_departure(rows):
    """A transformer that moves every image alike: by the identity and these rows."""
    transformer = SpatialTransformer(2, dtype=torch.float64)
    with torch.no_grad():
        transformer.localisation[-1].bias.copy_(torch.tensor(rows, dtype=torch.float64).flatten())
    return transformer


def trained(seed=0):
    """A transformer that moves every image by a map of its own, far enough to reach beyond its edges."""
    torch.manual_seed(seed)
    transformer = SpatialTransformer(2, dtype=torch.float64)
    nn.init.normal_(transformer.localisation[-1].weight, std=2)
    nn.init.normal_(transformer.localisation[-1].bias, std=0.2)
    return transformer


def sampled(images, matrices):
    grid = functional.affine_grid(matrices, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


@pytest.mark.parametrize("size", [(13, 13), (56, 56), (37, 224)], ids=str)
def test_a_fresh_module_gives_back_its_input_to_the_bit(size):
    images = 100 * torch.randn(2, 3, *size)
    transformer = SpatialTransformer(3)
    assert torch.equal(transformer(images), images)
    assert torch.equal(transformer.matrices(images), torch.eye(2, 3, dtype=torch.float64).expand(2, 2, 3))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(transformer(images), images)


def test_a_translation_moves_the_image_by_whole_pixels():
    images = torch.randn(2, 2, 16, 20, dtype=torch.float64)
    # The output shows what is 3 pixels to the right, of 20, and 1 pixel further up, of 16; two units span the image.
    output = with_departure([[0, 0, 2 * 3 / 20], [0, 0, -2 * 1 / 16]])(images)
    expected = torch.zeros_like(images)
    expected[..., 1:, :17] = images[..., :15, 3:]
    torch.testing.assert_close(output, expected)


def test_a_quarter_turn_turns_the_image():
    images = torch.randn(2, 2, 16, 16, dtype=torch.float64)
    # x of the input is -y of the output, y of the input is x: the picture's right side comes up.
    output = with_departure([[-1, -1, 0], [1, -1, 0]])(images)
    torch.testing.assert_close(output, torch.rot90(images, 1, (2, 3)))


def test_a_trained_module_equals_grid_sample_image_by_image():
    transformer = trained()
    images = torch.randn(3, 2, 17, 22, dtype=torch.float64)
    matrices = transformer.matrices(images)
    assert (matrices[0] - matrices[1]).abs().max() > 0.05
    assert (matrices - torch.eye(2, 3)).abs().max() > 0.2
    torch.testing.assert_close(transformer(images), sampled(images, matrices))


def test_gradients_equal_grid_samples_in_the_images_and_the_localisation_net():
    transformer = trained()
    images = torch.randn(3, 2, 17, 22, dtype=torch.float64, requires_grad=True)
    inputs, weights = (images, *transformer.parameters()), torch.randn(3, 2, 17, 22, dtype=torch.float64)
    found = torch.autograd.grad((transformer(images) * weights).sum(), inputs)
    expected = torch.autograd.grad((sampled(images, transformer.matrices(images)) * weights).sum(), inputs)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_gradient_reaches_the_last_layer_at_once_and_the_others_once_it_has_moved():
    torch.manual_seed(0)
    transformer = SpatialTransformer(1)
    images = torch.randn(2, 1, 16, 16)
    first, last = transformer.localisation[0], transformer.localisation[-1]
    (transformer(images) * images.roll(1, 3)).sum().backward()
    assert last.weight.grad.abs().sum() > 0
    assert last.bias.grad.abs().sum() > 0
    assert first.weight.grad.abs().sum() == 0
    with torch.no_grad():
        last.weight -= 0.001 * last.weight.grad
    (transformer(images) * images.roll(1, 3)).sum().backward()
    assert first.weight.grad.abs().sum() > 0


def test_a_module_learns_to_undo_a_shift():
    torch.manual_seed(0)
    y, x = torch.meshgrid(torch.arange(24.0), torch.arange(24.0), indexing="ij")
    target, image = (torch.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 20)[None, None] for cy, cx in ((12, 12), (9, 14)))
    transformer = SpatialTransformer(1)
    optimizer = torch.optim.Adam(transformer.parameters(), lr=0.003)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = (transformer(image) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.02 * losses[0]


def test_no_images_give_no_images():
    assert SpatialTransformer(3)(torch.zeros(0, 3, 16, 16)).shape == (0, 3, 16, 16)


def test_images_that_leave_a_cell_without_a_pixel_are_refused():
    with pytest.raises(ValueError, match="images: 12x40; the localisation net needs at least 13x13"):
        SpatialTransformer(3)(torch.zeros(1, 3, 12, 40))
