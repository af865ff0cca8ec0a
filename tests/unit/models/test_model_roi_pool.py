"""The plain RoI poolings against cases worked by hand, and boxes that are pooled as they are."""

import pytest
import torch
from detection_cases import made, same, two_scenes

from dcnlab.models.roi_pool import AuthorsRoIPool, PlainRoIPool, plain_pool
from dcnlab.models.roi_sampling import RoISampling

GRID = torch.arange(36.0).reshape(1, 1, 6, 6)
"""Six by six pixels of 0 to 35, row by row."""


def test_the_authors_plain_pooling_takes_a_bins_maximum():
    """The box from pixel (1, 1) to pixel (4, 4) in two bins a side: the bins' lower right pixels."""
    pooled = plain_pool("authors", 2, 1.0)(GRID, [torch.tensor([[1.0, 1.0, 4.0, 4.0]])])
    assert pooled[0, 0].tolist() == [[14, 16], [26, 28]]


def test_the_authors_ps_roi_pooling_averages_whole_pixels():
    """Each bin is the mean of one channel, chosen by the bin, over whole pixels."""
    maps = torch.cat([GRID + 100 * channel for channel in range(4)], 1)
    pooled = plain_pool("authors", 2, 1.0, position_sensitive=True)(maps, [torch.tensor([[1.0, 1.0, 5.0, 5.0]])])
    means = [[(7 + 8 + 13 + 14) / 4, 100 + (9 + 10 + 15 + 16) / 4]]
    means += [[200 + (19 + 20 + 25 + 26) / 4, 300 + (21 + 22 + 27 + 28) / 4]]
    assert pooled[0, 0].tolist() == means


def test_an_exact_box_is_a_pixel_shorter_than_pooling_makes_it():
    """On a ramp along x a box of pixels 2 to 5 is sampled at 1.5, 2.5, 3.5, 4.5; with a pixel more, 1.25 apart."""
    ramp = torch.arange(12.0).expand(1, 1, 12, 12).contiguous()
    boxes = [torch.tensor([[2.0, 2.0, 6.0, 6.0]])]
    exact, added = (made("faster_rcnn", exact_rois=exact).pooled(boxes) for exact in (True, False))
    assert exact[0].tolist() == [[2, 2, 5, 5]]
    pool = PlainRoIPool(1)
    assert pool(ramp, exact).item() == pytest.approx((1.5 + 2.5 + 3.5 + 4.5) / 4)
    assert pool(ramp, added).item() == pytest.approx((1.5 + 2.75 + 4 + 5.25) / 4)


@pytest.mark.parametrize("name", ["faster_rcnn", "rfcn"])
def test_a_detector_pools_as_it_is_asked_to(name):
    """The authors' pooling has the same parameters, gives other detections, and learns."""
    mean, authors = made(name), made(name, plain_pooling="authors")
    authors.load_state_dict(mean.state_dict())
    images, targets = two_scenes()
    with torch.no_grad():
        assert not torch.allclose(mean(images)[0]["scores"][:3], authors(images)[0]["scores"][:3], atol=1e-6)
    sum(authors(images, targets).values()).backward()
    assert next(authors.backbone.parameters()).grad.abs().sum() > 0
    assert torch.isfinite(authors.double()([image.double() for image in images])[0]["scores"]).all()
    deformable = made(name, deform_pooling=True, plain_pooling="authors")
    assert not [module for module in deformable.modules() if isinstance(module, AuthorsRoIPool)]


@pytest.mark.parametrize("name", ["faster_rcnn", "fpn", "rfcn"])
def test_exact_boxes_alter_detections_and_nothing_else(name):
    """The two settings of the far edge share all parameters, and detect differently."""
    added, exact = made(name), made(name, exact_rois=True)
    exact.load_state_dict(added.state_dict())
    images, _ = two_scenes()
    with torch.no_grad():
        one, other = added(images)[0], exact(images)[0]
        assert not torch.allclose(one["scores"][:3], other["scores"][:3], atol=1e-7)
        exact.exact_rois = False
        same(one, exact(images)[0])


def test_background_begins_at_the_least_overlap():
    """Of proposals that overlap the box by 0, 1/20 and 1/5, only the last is background from 0.1 on."""
    box = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    proposals = torch.tensor([[20.0, 20, 30, 30], [0, 0, 5, 1], [0, 0, 10, 2]])
    target = {"boxes": box, "labels": torch.tensor([1]), "seed": 0}
    for least, kept in ((0.0, 4), (0.1, 2)):
        sampled = RoISampling(rois=8, least_negative_iou=least).sample([proposals], [target])
        assert len(sampled.boxes[0]) == kept
