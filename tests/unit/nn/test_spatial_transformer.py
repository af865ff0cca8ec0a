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
def test_a_new_transformer_returns_its_input_bit_for_bit(size):
    """The identity grid must not resample, also under autocast."""
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


def test_a_quarter_rotation_equals_torch_rot90():
    """The affine matrix of a rotation by 90 degrees moves every pixel exactly."""
    images = torch.randn(2, 2, 16, 16, dtype=torch.float64)
    # x of the input is -y of the output, y of the input is x: the picture's right side comes up.
    output = with_departure([[-1, -1, 0], [1, -1, 0]])(images)
    torch.testing.assert_close(output, torch.rot90(images, 1, (2, 3)))


def test_a_trained_module_equals_grid_sample_image_by_image():
    """torch's grid_sample with each image's own matrix is the oracle."""
    transformer = trained()
    images = torch.randn(3, 2, 17, 22, dtype=torch.float64)
    matrices = transformer.matrices(images)
    assert (matrices[0] - matrices[1]).abs().max() > 0.05
    assert (matrices - torch.eye(2, 3)).abs().max() > 0.2
    torch.testing.assert_close(transformer(images), sampled(images, matrices))


def test_transformer_gradients_equal_grid_samples():
    """Gradients of the images and of the localization net equal those through torch's grid_sample."""
    transformer = trained()
    images = torch.randn(3, 2, 17, 22, dtype=torch.float64, requires_grad=True)
    inputs, weights = (images, *transformer.parameters()), torch.randn(3, 2, 17, 22, dtype=torch.float64)
    found = torch.autograd.grad((transformer(images) * weights).sum(), inputs)
    expected = torch.autograd.grad((sampled(images, transformer.matrices(images)) * weights).sum(), inputs)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_transformer_learns_from_its_identity_start():
    """At first only the last layer has a gradient; after one step the first layer has one, too."""
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


def test_the_transformer_learns_to_undo_a_shift():
    """A Gaussian off the centre moves to the target in 60 steps."""
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


def test_an_empty_batch_gives_an_empty_batch():
    """A rank without images must not fail."""
    assert SpatialTransformer(3)(torch.zeros(0, 3, 16, 16)).shape == (0, 3, 16, 16)


def test_images_too_small_for_the_localization_are_refused():
    """Below 13x13 pixels a pooling cell would be empty; the error names both sizes."""
    with pytest.raises(ValueError, match="images: 12x40; the localisation net needs at least 13x13"):
        SpatialTransformer(3)(torch.zeros(1, 3, 12, 40))
