"""DeepLab: its parameters counted by hand, its enlargement and loss against the definitions."""

import math

import pytest
import torch
from torch import nn

from dcnlab.models.backbone import backbone
from dcnlab.models.counting import count_parameters
from dcnlab.models.deeplab import DeepLab


def count(deform_layers, classes, offset_groups=1):
    with torch.device("meta"):
        features = backbone("resnet101", deform_layers=deform_layers, offset_groups=offset_groups)
        return count_parameters(DeepLab(features, classes))


def test_deeplab_parameters_equal_a_count_by_hand():
    """Three deformable layers add 248,886 parameters, the paper's 0.25M."""
    # torchvision's documented 44,549,160 with its classifier of 1000 classes; 2048 to 1024 and to 19 and 21 classes.
    features = 44_549_160 - (2048 * 1000 + 1000)
    for classes in (19, 21):
        assert count(0, classes) == features + 2048 * 1024 + 1024 + 1024 * classes + classes
    # Three layers of 512 channels, each with an offset convolution 3x3 to 18 channels: the paper's +0.25M.
    three = 3 * (512 * 9 * 18 + 18)
    assert count(3, 19) - count(0, 19) == three == 248_886
    assert count(3, 19, offset_groups=4) - count(0, 19) == 3 * (512 * 9 * 72 + 72)


def test_logits_have_the_images_size_whatever_it_is():
    model = DeepLab(backbone("resnet18"), 5).eval()
    for size in ((64, 64), (49, 83), (65, 33)):
        assert model(torch.zeros(1, 3, *size)).shape == (1, 5, *size)


class Constant(nn.Module):
    """A backbone whose features are given."""

    def __init__(self, features):
        super().__init__()
        self.features, self.channels, self.strides = features, {"res5": features.shape[1]}, {"res5": 16}

    def forward(self, images):
        return {"res5": self.features}


def test_upsampling_equals_the_authors_deconvolution():
    """Away from the border it is a bilinear deconvolution of stride 16, cropped by eight pixels."""
    # Deconvolution with kernel 32, stride 16 and a triangle as filter, then a crop that begins at 8 (authors' code).
    grid = torch.rand(1, 1, 4, 5)
    model = DeepLab(Constant(grid), 1, channels=1)
    for conv in (model.reduce, model.classify):
        nn.init.ones_(conv.weight)
    ramp = 1 - ((torch.arange(32) - 15.5).abs() / 16)
    deconvolved = nn.functional.conv_transpose2d(grid, (ramp[:, None] * ramp)[None, None], stride=16)
    expected = deconvolved[..., 8 : 8 + 64, 8 : 8 + 80]
    found = model(torch.zeros(1, 3, 60, 70))
    # Away from the border, where the deconvolution fades to zero and the enlargement goes on.
    torch.testing.assert_close(found[..., 8:56, 8:70], expected[..., 8:56, 8:70])


def test_images_weigh_equally_whatever_their_pixels():
    """Of two images one has a single pixel that counts, and a batch is the mean of both alone."""
    logits = torch.tensor([[[[1.0, 2.0]], [[0.0, -1.0]]], [[[0.5, 0.0]], [[0.0, 3.0]]]])
    labels = torch.tensor([[[0, 1]], [[0, 255]]])
    alone = [DeepLab.loss(logits[n : n + 1], labels[n : n + 1]) for n in range(2)]
    torch.testing.assert_close(DeepLab.loss(logits, labels), (alone[0] + alone[1]) / 2)
    by_hand = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(3))) / 2, math.log(1 + math.exp(-0.5))
    torch.testing.assert_close(torch.stack(alone), torch.tensor(by_hand))


def test_the_loss_is_the_mean_over_labelled_pixels():
    """Ignored pixels get no gradient."""
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])[None, :, None].requires_grad_()  # (1, 2 classes, 1, 2 pixels)
    hand = torch.log(1 + torch.exp(torch.tensor(-2.0)))
    loss = DeepLab.loss(logits, torch.tensor([[[0, 255]]]))
    torch.testing.assert_close(loss, hand)
    loss.backward()
    assert torch.equal(logits.grad[..., 1], torch.zeros(1, 2, 1))


def test_a_batch_of_ignored_pixels_gives_zero_loss():
    """A mean over no pixel would be NaN and end the training."""
    logits = torch.randn(1, 2, 3, 3, requires_grad=True)
    loss = DeepLab.loss(logits, torch.full((1, 3, 3), 255))
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch's refusal is its GPU kernels' own")
def test_a_deterministic_training_step_runs_on_a_gpu():
    """torch refuses the plain loss on a GPU when deterministic algorithms are asked for."""
    logits = torch.randn(2, 3, 8, 8, device="cuda", requires_grad=True)
    torch.use_deterministic_algorithms(True)
    try:
        DeepLab.loss(logits, torch.randint(0, 3, (2, 8, 8), device="cuda")).backward()
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_loss_stride_takes_the_middle_of_each_square():
    """In training a logit stands for a 4x4 square and meets the label of its middle; in evaluation for a pixel."""
    torch.manual_seed(0)
    model = DeepLab(backbone("resnet18"), 3, 8, loss_stride=4)
    images = torch.rand(1, 3, 38, 64)
    logits = model(images)
    assert logits.shape == (1, 3, 10, 16)
    assert model.eval()(images).shape == (1, 3, 38, 64)
    labels = torch.randint(3, (1, 38, 64))
    labels[0, 2, 6] = 255
    expected, count = 0.0, 0
    for row in range(10):
        for column in range(16):
            label = int(labels[0, min(4 * row + 2, 37), 4 * column + 2])
            if label != 255:
                expected -= logits[0, :, row, column].log_softmax(0)[label].item()
                count += 1
    assert count == 159
    assert DeepLab.loss(logits, labels).item() == pytest.approx(expected / count, rel=1e-5)
