"""Scenes of digits: pure in their index, whole, tightly boxed and rightly labelled."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from dcnlab.data.digits.datasets import DigitClassification, DigitDetection, DigitSegmentation
from dcnlab.data.digits.geometry import Geometry
from dcnlab.data.digits.mnist_reader import read_digits
from dcnlab.data.digits.patch import draw_patch
from dcnlab.data.digits.scenes import DigitScenes

PLAIN = Geometry(image_size=84, rotation=0, scale=(1, 1), shear=0, warp=0, clutter=0, brightness=(1, 1))
"""One canvas pixel a digit's pixel, and nothing else happens to it."""


def paper_cut_off(ink):
    """The rectangle of a picture that its inked pixels span."""
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


@pytest.fixture(scope="module")
def scenes():
    return DigitScenes("test")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.integers(0, 1999), min_size=1, max_size=12), st.integers(1, 3))
def test_a_scene_does_not_depend_on_its_batch(indices, digits):
    """Hypothesis draws batches; each scene equals the one drawn alone."""
    dataset = DigitScenes("test", digits=digits)
    for index, scene in zip(indices, dataset.__getitems__(indices), strict=True):
        alone = dataset[index]
        for field in ("image", "labels", "boxes", "masks"):
            assert torch.equal(getattr(scene, field), getattr(alone, field))


def test_a_scene_is_the_same_in_worker_processes():
    view = DigitClassification(DigitScenes("val", length=96))
    here = [batch for batch in DataLoader(view, 16)]
    there = [batch for batch in DataLoader(view, 24, num_workers=2)]
    assert torch.equal(torch.cat([b[0] for b in here]), torch.cat([b[0] for b in there]))
    assert torch.equal(torch.cat([b[1] for b in here]), torch.cat([b[1] for b in there]))


def test_scenes_never_change_between_releases():
    """Results stay comparable only while scenes do; these pixel sums are from the first release."""
    images = DigitScenes("test").draw(range(3)).images.astype(np.int64)
    # Another machine's sine may round a pixel or two differently.
    assert images.sum((1, 2)).tolist() == pytest.approx([72910, 154447, 36557], abs=4)


def test_an_undistorted_scene_shows_the_stored_digit():
    """Without distortion every pixel of strong ink equals the MNIST image."""
    dataset = DigitScenes("test", PLAIN)
    inks, labels = read_digits("test")
    for index in range(0, 2000, 97):
        scene = dataset[index]
        assert scene.labels.tolist() == [labels[index]]
        shown = (scene.image[0] * 255).round().numpy().astype(np.uint8)
        # Ink fainter than 5% may be cut off at the digit's rim; the paper around it is not part of the comparison.
        strong = np.where(inks[index] >= 13, inks[index], 0)
        want = paper_cut_off(strong)
        assert np.array_equal(paper_cut_off(np.where(shown >= 13, shown, 0)), want)


def test_resampling_equals_torchs_grid_sample():
    """Random affine maps, with and without waves, give the values of torch's grid_sample."""
    rng = np.random.default_rng(0)
    size, ink = 90, read_digits("val")[0][3]
    for trial in range(6):
        matrix = rng.uniform(-1.8, 1.8, (2, 2)) + np.eye(2) * 0.9
        if abs(np.linalg.det(matrix)) < 0.3:
            continue
        waves = np.zeros((4, 4))
        if trial % 2:
            waves[:] = np.stack(
                [*rng.uniform(-0.2, 0.2, (2, 4)), rng.uniform(0, 6.3, 4), rng.uniform(0.2, 1.0, 4)], axis=1
            )
        patch, box = np.zeros((size, size)), np.zeros(4, np.int64)
        window = np.array([0, 28, 0, 28])
        work = (patch, np.empty((30, 30)), np.empty((2 * size, 8)), matrix, waves, window, box)
        draw_patch(ink, work)

        middle = np.arange(size) + 0.5 - size / 2
        canvas = np.stack(np.meshgrid(middle, middle), -1)  # x, y
        source = canvas @ np.linalg.inv(matrix).T
        sines = waves[:, 3] * np.sin(source @ waves[:, :2].T + waves[:, 2])
        source = source + np.stack([sines[..., :2].sum(-1), sines[..., 2:].sum(-1)], -1)
        want = torch.nn.functional.grid_sample(
            torch.from_numpy(ink.astype(np.float64))[None, None] / 255,
            torch.from_numpy(source / 14)[None],
            padding_mode="zeros",
            align_corners=False,
        )[0, 0].numpy()
        assert want.sum() > 20
        assert np.abs(patch - want).max() < 1e-9
        rows, columns = np.flatnonzero((want >= 0.05).any(1)), np.flatnonzero((want >= 0.05).any(0))
        assert box.tolist() == [rows[0], rows[-1] + 1, columns[0], columns[-1] + 1]


def test_boxes_are_tight_around_masks_and_masks_share_no_pixel():
    """In 200 scenes of several digits."""
    dataset = DigitScenes("train", Geometry(image_size=80, scale=(0.8, 1.8)), digits=4)
    several = 0
    for scene in dataset.__getitems__(range(200)):
        several += len(scene.labels) > 1
        assert scene.masks.sum(0).max() <= 1
        assert len(scene.labels) == len(scene.boxes) == len(scene.masks) >= 1
        for box, mask in zip(scene.boxes, scene.masks, strict=True):
            ys, xs = mask.nonzero(as_tuple=True)
            assert box.tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    assert several > 150


def test_the_main_digit_is_never_cut_off():
    """A cut digit would leave strong ink on the image's border."""
    drawing = DigitScenes("train", Geometry(scale=(3.0, 6.0), clutter=0)).draw(range(600))
    images, boxes = drawing.images, drawing.boxes[:, 0]
    rim = np.concatenate([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]], 1)
    assert rim.max() < 0.8 * 255
    assert (boxes[:, 2:] - boxes[:, :2]).max(1).mean() > 45


def test_clutter_never_hides_the_digit():
    """Ink of the digit stays visible with nine pieces of clutter."""
    bare, strewn = (DigitScenes("test", Geometry(clutter=n, brightness=(1, 1))) for n in (0, 9))
    for index in range(20):
        for scene in (bare[index], strewn[index]):
            assert scene.image[0][scene.masks[0]].min() >= 0.49
    assert strewn.draw(range(50)).images.mean() > 1.3 * bare.draw(range(50)).images.mean()


def test_rotations_are_spread_evenly():
    """The principal axis of a digit 1 gives the angle modulo 180 degrees; each sixth is frequent."""
    dataset = DigitScenes("train", Geometry(clutter=0, shear=0, warp=0, scale=(2, 2)), classes=["1"])
    angles = []
    for image in dataset.draw(range(700)).images.astype(float):
        ys, xs = image.nonzero()
        weights = image[ys, xs]
        cov = np.cov(np.stack([xs, ys]), aweights=weights)
        x, y = np.linalg.eigh(cov)[1][:, 1]
        angles.append(np.degrees(np.arctan2(y, x)) % 180)
    counts = np.histogram(angles, 6, (0, 180))[0]
    # Binomial with p = 1/6: 116.7 expected, standard deviation 9.9.
    assert counts.min() > 116.7 - 4 * 9.9
    assert counts.max() < 116.7 + 4 * 9.9


def test_scales_fill_their_range():
    """Measured by the height of boxes, between scale 1 and 2."""
    dataset = DigitScenes("train", Geometry(image_size=112, clutter=0, rotation=0, shear=0, warp=0, scale=(1, 2)))
    drawn = dataset.draw(range(500)).boxes[:, 0]
    stored = DigitScenes("train", PLAIN).draw(range(500)).boxes[:, 0]
    # A third of 112 pixels over 28 is a magnification of 4/3 at scale 1.
    scale = (drawn[:, 3] - drawn[:, 1]) / (stored[:, 3] - stored[:, 1]) * 3 / 4
    assert 0.9 < scale.min() < 1.1
    assert 1.9 < scale.max() < 2.1
    assert abs(scale.mean() - 1.5) < 0.05


def test_splits_seeds_and_epochs_differ():
    """Other seeds and epochs draw other images; the label belongs to the index."""
    assert not np.array_equal(DigitScenes("test", seed=1).draw([3]).images, DigitScenes("test").draw([3]).images)
    view = DigitClassification(DigitScenes("train", length=10))
    assert view[0, 4][1] == view[4][1]
    assert torch.equal(view[0, 4][0], view[4][0])
    assert not torch.equal(view[1, 4][0], view[4][0])


def test_a_longer_data_set_shows_the_same_digits_in_new_poses(scenes):
    """Index 2007 is digit 7 again, drawn anew."""
    longer = DigitScenes("test", length=4000)
    assert len(longer) == 4000
    assert torch.equal(longer[7].image, scenes[7].image)
    assert torch.equal(longer[2007].labels, scenes[7].labels)
    assert not torch.equal(longer[2007].image, scenes[7].image)


def test_iterating_ends_and_an_index_past_the_end_is_an_error():
    short = DigitScenes("val", length=3)
    assert sum(1 for _ in short) == 3
    with pytest.raises(IndexError):
        DigitClassification(short)[3]


def test_chosen_classes_are_labelled_in_their_order():
    dataset = DigitScenes("val", PLAIN, classes=["8", "3"])
    inks, labels = read_digits("val")
    assert len(dataset) == np.isin(labels, [3, 8]).sum()
    first = np.flatnonzero(np.isin(labels, [3, 8]))[0]
    assert ["8", "3"][dataset[0].labels.item()] == str(labels[first])
    assert np.array_equal(dataset.inks[0], inks[first])


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ({"scale": (3.0, 1.0)}, "scale"),
        ({"warp": 0.5}, "warp"),
        ({"rotation": -1.0}, "rotation"),
        ({"image_size": 2}, "image_size"),
        ({"brightness": (0.5, 2.0)}, "brightness"),
    ],
)
def test_a_geometry_that_cannot_be_drawn_names_the_field(bad, named):
    with pytest.raises(ValueError, match=f"^{named}"):
        Geometry(**bad)


def test_wrong_lengths_classes_and_counts_are_refused():
    for wrong, named in (({"length": 0}, "length"), ({"classes": ["ten"]}, "ten"), ({"digits": 0}, "digits")):
        with pytest.raises(ValueError, match=named):
            DigitScenes("val", **wrong)
    with pytest.raises(ValueError, match="one digit"):
        DigitClassification(DigitScenes("val", digits=2))


def test_a_digit_too_small_for_a_mask_keeps_its_label():
    """A scene of 8 pixels may show no digit, but a classifier needs its label."""
    scenes = DigitScenes("train", Geometry(image_size=8, scale=(0.4, 1.6)))
    pairs = DigitClassification(scenes).__getitems__(list(range(300)))
    assert [label for _, label in pairs] == scenes.digit_labels[:300].tolist()
    assert any(len(scenes[i].labels) == 0 for i in range(300))  # so the case does occur


def test_an_infinite_scale_is_refused():
    """The error names the scale of the scenes before anything is drawn."""
    with pytest.raises(ValueError, match="scale of digit scenes"):
        Geometry(scale=(1, float("inf")))


def test_pixel_labels_are_the_front_digits_class_plus_one():
    """Compared with the scene's masks, which are drawn digit by digit."""
    scenes = DigitScenes("val", Geometry(image_size=96), digits=4, classes=["8", "3", "5"])
    view = DigitSegmentation(scenes)
    assert view.classes == ["background", "8", "3", "5"]
    seen = set()
    for index in range(40):
        image, label = view[index]
        scene = scenes[index]
        want = torch.zeros(96, 96, dtype=torch.int64)
        for digit, mask in zip(scene.labels, scene.masks, strict=True):
            want[mask] = digit + 1
        assert label.dtype == torch.int64
        assert torch.equal(label, want)
        assert torch.allclose(image, (scene.image - 0.1) / 0.24, atol=1e-6)
        seen |= set(label.unique().tolist())
    assert seen == {0, 1, 2, 3}


def test_labelled_scenes_depend_on_epoch_and_index_alone():
    """An item is the same alone and in any batch; another epoch gives another scene."""
    view = DigitSegmentation(DigitScenes("train", digits=3, length=20))
    batch = view.__getitems__([(2, 5), 7, (0, 7)])
    for (image, label), key in zip(batch, [(2, 5), 7, 7], strict=True):
        assert torch.equal(image, view[key][0])
        assert torch.equal(label, view[key][1])
    assert not torch.equal(view[0, 5][1], view[1, 5][1])
    with pytest.raises(IndexError):
        view[1, 20]


def test_detection_targets_equal_the_scenes_boxes():
    """Labels begin at 1; the second epoch shows the scenes that a longer data set has next."""
    scenes = DigitScenes("val", Geometry(image_size=80, scale=(0.8, 1.8)), 40, digits=4)
    view = DigitDetection(scenes)
    for index in (0, 17, 39):
        scene, (image, target) = scenes[index], view[index]
        assert torch.allclose(image * 0.24 + 0.1, scene.image, atol=1e-5)
        assert torch.equal(target["boxes"], scene.boxes)
        assert torch.equal(target["labels"], scene.labels + 1)
        assert (target["image_id"], target["size"]) == (index, (80, 80))
    # The second pass shows what a longer data set shows after the first.
    longer = DigitScenes("val", scenes.geometry, 80, digits=4)
    assert torch.equal(view[1, 17][1]["boxes"], longer[57].boxes)
    assert view[1, 17][1]["image_id"] == 17
    truth = view.ground_truth
    of_image = slice(*truth.offsets[17:19])
    assert truth.boxes[of_image].tolist() == scenes[17].boxes.tolist()
    assert truth.labels[of_image].tolist() == (scenes[17].labels + 1).tolist()
    assert truth.classes == tuple("0123456789")
    assert len(truth) == 40


def test_a_scene_without_visible_digits_has_no_boxes():
    """Its target has boxes of shape (0, 4), so that it trains as background."""
    view = DigitDetection(DigitScenes("train", Geometry(image_size=8, scale=(0.4, 1.6))))
    empty = next(target for _, target in view.__getitems__(list(range(300))) if len(target["labels"]) == 0)
    assert empty["boxes"].shape == (0, 4)
