"""Testing over scales and mirror images, against the definition worked by hand."""

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import interpolate

from dcnlab.tasks.label_pictures import palette, segmentation_panel
from dcnlab.tasks.pictures import to_picture
from dcnlab.tasks.segmentation import segment


class Columns(nn.Module):
    """Logits that depend on the column alone: not the same in the mirror."""

    def forward(self, images):
        ramp = torch.linspace(-1, 2, images.shape[-1]).expand(images.shape[0], 1, *images.shape[-2:])
        return torch.cat([ramp, 3 * images[:, :1]], 1)


def test_a_single_scale_test_is_the_argmax_at_label_size():
    """Without scales and flip, logits are resized to the label's size before the argmax."""
    images = torch.rand(2, 3, 20, 24)
    logits = interpolate(Columns()(images), (40, 48), mode="bilinear")
    assert torch.equal(segment(Columns(), images, (40, 48)), logits.argmax(1))


def test_scales_and_flips_average_probabilities():
    """Softmax is averaged at the label's size, not the logits."""
    images = torch.rand(1, 3, 20, 24)
    expected = torch.zeros(1, 2, 20, 24)
    for size in ((10, 12), (20, 24), (30, 36)):
        scaled = interpolate(images, size, mode="bilinear", antialias=True)
        expected += interpolate(Columns()(scaled), (20, 24), mode="bilinear").softmax(1)
        mirrored = interpolate(Columns()(scaled.flip(3)), (20, 24), mode="bilinear").softmax(1)
        expected += mirrored.flip(3)
    found = segment(Columns(), images, (20, 24), scales=(0.5, 1, 1.5), flip=True)
    assert torch.equal(found, expected.argmax(1))
    assert not torch.equal(found, segment(Columns(), images, (20, 24)))


def test_the_palette_equals_vocs_colour_map():
    """The first entries, class 20 and the ignored label of the VOC development kit."""
    # The first entries of the VOC development kit's colour map.
    expected = [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128], [128, 0, 128], [0, 128, 128]]
    assert palette(21)[:7].tolist() == expected
    assert palette(21)[20].tolist() == [0, 64, 128]
    assert palette(21)[255].tolist() == [255, 255, 255]


def test_a_panel_shows_image_label_and_prediction():
    """Ignored pixels are white in label and prediction; image colours are denormalized by hand."""
    image = to_picture(torch.full((3, 200, 200), 0.5), (0.5, 0.25, 0.0), (0.5, 0.5, 0.5))
    assert image.getpixel((0, 0)) == (191, 128, 64)  # 0.5 x 0.5 + mean, of 255
    label = torch.zeros(200, 200, dtype=torch.int64)
    label[:100] = 255
    panel = np.asarray(segmentation_panel(image, label, torch.ones_like(label), ["ground", "car"]))
    at = [panel[18 + y, x] for x in (6 + 10, 212 + 10, 418 + 10) for y in (50, 150)]
    assert [tuple(int(v) for v in pixel) for pixel in at] == [
        (191, 128, 64), (191, 128, 64), (255, 255, 255), (255, 85, 85), (255, 255, 255), (70, 170, 255),
    ]  # fmt: skip
    assert isinstance(Image.fromarray(panel), Image.Image)


def test_half_precision_networks_can_use_test_scales():
    """bfloat16 agrees with float32 on more than 90% of the pixels."""
    images = torch.rand(1, 3, 20, 24, dtype=torch.bfloat16)
    exact = segment(Columns(), images.float(), (20, 24), scales=(0.5, 1, 1.5), flip=True)
    found = segment(Columns(), images, (20, 24), scales=(0.5, 1, 1.5), flip=True)
    assert (found == exact).float().mean() > 0.9
