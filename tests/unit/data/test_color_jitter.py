"""data.color_jitter: torchvision's ColorJitter of training photographs, of all three tasks, as the seed says."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from dcnlab.config.load import load_experiment
from dcnlab.data.classification.image_folder import ImageFolderSplit
from dcnlab.data.detection.annotations import Annotations
from dcnlab.data.detection.split import DetectionSplit
from dcnlab.data.photographs import strings
from dcnlab.data.seeding import seeded
from dcnlab.data.segmentation.split import SegmentationSplit
from dcnlab.io.errors import ConfigError

PLAIN = {"mean": (0, 0, 0), "std": (1, 1, 1)}
JITTER = (0.4, 0.3, 0.2, 0.1)
COLOUR = (200, 100, 40)


@pytest.fixture
def splits(tmp_path):
    """A function that makes a split of each task over the same picture of one colour."""
    picture = tmp_path / "train" / "cat" / "a.png"
    picture.parent.mkdir(parents=True)
    Image.fromarray(np.full((24, 32, 3), COLOUR, np.uint8)).save(picture)
    Image.fromarray(np.ones((24, 32), np.uint8)).save(tmp_path / "label.png")
    boxes = Annotations(
        root=tmp_path, classes=("cat",), files=strings(["train/cat/a.png"] * 3), image_ids=np.arange(3),
        sizes=np.full((3, 2), (24, 32)), offsets=np.array([0, 1, 1, 1]), boxes=np.array([[2.0, 3, 12, 13]]),
        labels=np.array([1]), areas=np.ones(1), difficult=np.zeros(1, bool), crowd=np.zeros(1, bool),
        category_ids=np.array([1]),
    )  # fmt: skip

    def make(jitter, augment=True, seed=7):
        same = {"augment": augment, "seed": seed, "color_jitter": jitter, **PLAIN}
        listed = ([(str(picture), 0)] * 3, ["cat"])
        return {
            "classification": ImageFolderSplit(tmp_path, "train", image_size=16, listed=listed, **same),
            "segmentation": SegmentationSplit([(picture, tmp_path / "label.png")] * 3, ["no", "yes"], **same),
            "detection": DetectionSplit(boxes, None, None, **same),
        }

    return make


@pytest.mark.parametrize("task", ["classification", "segmentation", "detection"])
def test_brightness_scales_by_a_factor_within_its_range(splits, task):
    """By hand: one factor for red, green and blue, between 0.6 and 1.4, cut at white; another in each epoch."""
    factors = []
    for epoch in range(12):
        pixel = splits((0.4, 0, 0, 0))[task][epoch, 0][0][:, 4, 4] * 255
        factors.append(float(pixel[2]) / COLOUR[2])
        expected = [min(255.0, factors[-1] * value) for value in COLOUR]
        assert pixel.tolist() == pytest.approx(expected, abs=5)  # blue was rounded to whole numbers
    assert all(0.57 <= factor <= 1.43 for factor in factors)
    assert max(factors) - min(factors) > 0.3


@pytest.mark.parametrize("task", ["segmentation", "detection"])
def test_colours_are_those_of_torchvisions_transform(splits, task):
    """The oracle is ColorJitter itself under the seed of the item; labels and boxes stay as they were."""
    split, plain = splits(JITTER)[task], splits((0, 0, 0, 0))[task]
    with seeded(7, 2, 0):
        whole = torch.tensor(COLOUR, dtype=torch.uint8)[:, None, None].expand(3, 24, 32)
        expected = v2.ColorJitter(*JITTER)(whole).float() / 255
    image, target = split[2, 0]
    assert torch.allclose(image, expected, atol=1e-6)
    if task == "segmentation":
        assert torch.equal(target, plain[2, 0][1])
    else:
        assert (target["boxes"][0, 2] - target["boxes"][0, 0], target["labels"].tolist()) == (10, [1])


@pytest.mark.parametrize("task", ["classification", "segmentation", "detection"])
def test_jittered_items_depend_on_seed_epoch_and_index(splits, task):
    """torch's random state has no part in it, as in a loader process or after a resume; evaluation has none."""
    image = splits(JITTER)[task][2, 1][0]
    torch.rand(9)
    assert torch.equal(splits(JITTER)[task][2, 1][0], image)
    others = [splits(JITTER)[task][2, 2][0], splits(JITTER)[task][3, 1][0], splits(JITTER, seed=8)[task][2, 1][0]]
    assert not any(torch.equal(other, image) for other in others)
    colour = splits(JITTER, augment=False)[task][2, 1][0][:, 0, 0]
    assert torch.allclose(colour, torch.tensor(COLOUR) / 255)


def test_padding_around_a_jittered_image_keeps_the_mean(tmp_path):
    """A crop larger than the image is padded with the mean colour, which is 0 after normalisation."""
    pair = tmp_path / "a.png", tmp_path / "b.png"
    Image.fromarray(np.full((10, 10, 3), 250, np.uint8)).save(pair[0])
    Image.fromarray(np.zeros((10, 10), np.uint8)).save(pair[1])
    split = SegmentationSplit([pair], ["all"], crop_size=(40, 40), color_jitter=(0.9, 0, 0, 0), augment=True)
    image, label = split[0]
    assert label.shape == (40, 40)
    assert image[:, label == 255].abs().max() < 0.01


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("data.color_jitter=[0.4, 0.4, 0.4, 0.7]", "hue 0 to 0.5"),
        ("data.color_jitter=[-1, 0, 0, 0]", "must be at least 0"),
        ("data.color_jitter=[0.4, 0.4]", "data.color_jitter"),
    ],
)
def test_wrong_jitters_are_refused_in_one_line(words, says):
    """The line names the key, its value and the range."""
    with pytest.raises(ConfigError, match=r"\A[^\n]+\Z") as caught:
        load_experiment("classification/own", ["data.root=MINE", words])
    assert says in str(caught.value)


def test_digits_refuse_a_jitter_that_nothing_reads():
    """The embedded digits are drawn, not photographed."""
    with pytest.raises(ConfigError, match=r"data\.color_jitter is .*, which nothing reads where data\.name is digits"):
        load_experiment("classification/quickstart", ["data.color_jitter=[0.4, 0.4, 0.4, 0.1]"])
