"""Detection items and batches: resizing and flips by hand, augmentation as a function of its key, broken images."""

import warnings

import numpy as np
import pytest
import torch
from locations import SHARED
from PIL import Image

from dcnlab.data.detection.annotations import Annotations
from dcnlab.data.detection.data_module import DetectionDataModule
from dcnlab.data.detection.split import DetectionSplit
from dcnlab.data.photographs import strings
from dcnlab.data.resize import resized

SHARED = SHARED / "data"
CARDS = SHARED / "cards"


def annotations(root, boxes, difficult=(), height=30, width=40, files=("a.png",)):
    """One image a file; the boxes are all of the first."""
    count = len(boxes)
    return Annotations(
        root=root,
        classes=("cat", "dog"),
        files=strings(files),
        image_ids=np.arange(len(files)),
        sizes=np.full((len(files), 2), (height, width)),
        offsets=np.array([0] + [count] * len(files)),
        boxes=np.array(boxes, float).reshape(-1, 4),
        labels=np.arange(count) % 2 + 1,
        areas=np.ones(count),
        difficult=np.isin(np.arange(count), difficult),
        crowd=np.zeros(count, bool),
        category_ids=np.array([1, 2]),
    )


@pytest.fixture
def root(tmp_path):
    """An image of 40 x 30 pixels: red from column 10 to 19 and row 6 to 11, black elsewhere."""
    pixels = np.zeros((30, 40, 3), np.uint8)
    pixels[6:12, 10:20, 0] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return tmp_path


def error_of(make):
    """The error's text, which is one line."""
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z") as caught:
        make()
    return str(caught.value)


@pytest.mark.parametrize(
    ("height", "width", "want"),
    [
        (375, 500, (600, 800)),  # 600 / 375 = 1.6
        (500, 375, (800, 600)),
        (300, 1000, (300, 1000)),  # 600 would make it 2000 long
        (1200, 1200, (600, 600)),
        (333, 500, (600, 901)),  # 500 * 600 / 333 = 900.9
        (1, 5000, (1, 1000)),
    ],
)
def test_sides_are_resized_to_600_and_at_most_1000(height, width, want):
    """Six sizes by hand: the longer side's limit wins, and an extreme strip keeps a height of 1."""
    assert resized(height, width, 600, 1000) == want


def test_boxes_stay_on_their_objects_when_the_image_is_resized(root):
    """A bright rectangle in the image shows where the box must be."""
    split = DetectionSplit(annotations(root, [[10, 6, 20, 12]]), 90, 1000, mean=(0, 0, 0), std=(1, 1, 1))
    image, target = split[0]
    assert image.shape == (3, 90, 120)
    assert target["boxes"].tolist() == [[30, 18, 60, 36]]
    assert target["boxes"].dtype == torch.float32
    assert target["labels"].tolist() == [1]
    assert (target["image_id"], target["size"]) == (0, (30, 40))
    rows, columns = (image[0] > 0.5).nonzero(as_tuple=True)
    assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == [30, 18, 60, 36]
    assert (type(image), type(target["boxes"])) == (torch.Tensor, torch.Tensor)


def test_flipped_boxes_stay_on_their_objects(root):
    """A bright rectangle shows where the box must be after each random flip."""
    split = DetectionSplit(annotations(root, [[10, 6, 20, 12]]), 30, 40, mean=(0, 0, 0), std=(1, 1, 1), augment=True)
    seen = set()
    for turn in range(20):
        image, target = split[turn, 0]
        rows, columns = (image[0] > 0.5).nonzero(as_tuple=True)
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert target["boxes"].tolist() == [box]
        seen.add(tuple(target["boxes"][0].tolist()))
    assert seen == {(10, 6, 20, 12), (20, 6, 30, 12)}  # 40 - 20, 40 - 10
    still = DetectionSplit(annotations(root, [[10, 6, 20, 12]]), 30, 40, flip=False, augment=True)
    assert {still[turn, 0][1]["boxes"][0, 0].item() for turn in range(20)} == {10}


def test_images_are_normalised_by_mean_and_std_of_their_range(root):
    image, _ = DetectionSplit(annotations(root, []), 30, 40, mean=(0.5, 0.25, 0), std=(0.5, 0.5, 2))[0]
    assert image[:, 8, 15].tolist() == [1, -0.5, 0]
    assert image.dtype == torch.float32


def test_difficult_and_empty_boxes_are_not_trained(root):
    """One warning counts the empty boxes; the ground truth keeps all boxes, and testing warns of none."""
    said = annotations(root, [[1, 1, 9, 9], [2, 2, 8, 8], [3, 3, 3, 9], [-4, 5, 6, 50]], difficult=[1])
    with pytest.warns(UserWarning, match="1 of 4 boxes"):
        split = DetectionSplit(said, 30, 40, flip=False, augment=True)
    target = split[0, 0][1]
    assert target["boxes"].tolist() == [[1, 1, 9, 9], [0, 5, 6, 30]]
    assert target["labels"].tolist() == [1, 2]
    assert len(split.ground_truth.boxes) == 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DetectionSplit(said, 30, 40)


def test_an_image_without_boxes_gives_empty_targets(root):
    """Shapes and dtypes stay, so that it trains as background."""
    split = DetectionSplit(annotations(root, [[1, 1, 2, 2]], files=("a.png", "a.png")), 60, 100, augment=True)
    target = split[0, 1][1]
    assert target["boxes"].shape == (0, 4)
    assert target["labels"].shape == (0,)
    assert target["labels"].dtype == torch.int64
    assert [len(split[0, index][1]["boxes"]) for index in range(2)] == [1, 0]


def test_changing_a_target_leaves_the_data_set_alone(root):
    """A network that edits its targets in place must not change the next epoch."""
    split = DetectionSplit(annotations(root, [[1, 1, 2, 2]]), 30, 40)
    for part in ("boxes", "labels"):
        split[0][1][part].zero_()
        assert split[0][1][part].any()


@pytest.mark.parametrize("damage", [lambda content: content[:70], lambda _: b"no image", lambda _: b""])
def test_a_broken_image_is_named(root, damage):
    path = root / "a.png"
    path.write_bytes(damage(path.read_bytes()))
    split = DetectionSplit(annotations(root, []))
    assert str(path) in error_of(lambda: split[0])


def test_a_missing_image_is_named(root):
    assert "b.png" in error_of(lambda: DetectionSplit(annotations(root, [], files=("b.png",)))[0])


def test_an_image_of_another_size_than_stated_is_named(root):
    message = error_of(lambda: DetectionSplit(annotations(root, [], height=40, width=30))[0])
    assert str(root / "a.png") in message
    assert "height 30 and width 40" in message


@pytest.mark.parametrize("side", [10_000, 20_000])
def test_an_image_bomb_is_refused_by_its_size(root, side):
    """A 1-bit PNG below 100 KB would be 300 MB or more as RGB."""
    # A few kilobytes that would be gigabytes; PIL warns of the smaller and refuses the larger.
    Image.new("1", (side, side)).save(root / "a.png")
    assert (root / "a.png").stat().st_size < 100_000
    split = DetectionSplit(annotations(root, [], height=side, width=side))
    message = error_of(lambda: split[0])
    assert str(root / "a.png") in message
    assert str(side * side) in message


needs_cards = pytest.mark.skipif(not CARDS.is_dir(), reason="needs the cards folder beside the checkout")


@needs_cards
def test_items_depend_on_seed_epoch_and_index_alone():
    """Loader workers give the items of the main process, and torch's random state stays."""
    batches = []
    for workers in (0, 2):
        data = DetectionDataModule(
            "voc", CARDS, shorter_side=60, longer_side=100, batch_size=4, workers=workers, seed=3
        )
        batches.append(list(data.train_dataloader())[:4])
    for (images, targets), (others, their_targets) in zip(*batches, strict=True):
        assert len(images) == len(targets) == 4
        for image, target, other, theirs in zip(images, targets, others, their_targets, strict=True):
            assert torch.equal(image, other)
            assert torch.equal(target["boxes"], theirs["boxes"])
    state = torch.get_rng_state()
    flips = [data.train[turn, 5][1]["boxes"] for turn in range(8)]
    assert torch.equal(torch.get_rng_state(), state)
    assert any(not torch.equal(flips[0], boxes) for boxes in flips)
    other = DetectionDataModule("voc", CARDS, shorter_side=60, longer_side=100, seed=4)
    assert any(not torch.equal(data.train[0, i][0], other.train[0, i][0]) for i in range(8))


@needs_cards
def test_voc_and_coco_give_the_same_items():
    """The cards data set in both forms, with two chosen classes."""
    voc, coco = (DetectionDataModule(name, CARDS, classes=["ten", "ace"]) for name in ("voc", "coco"))
    assert voc.classes == coco.classes == ["ten", "ace"]
    for split in ("train", "val", "test"):
        ours, theirs = getattr(voc, split), getattr(coco, split)
        assert len(ours) == len(theirs)
        for field in ("boxes", "labels", "offsets", "areas", "difficult", "crowd"):
            assert np.array_equal(getattr(ours.ground_truth, field), getattr(theirs.ground_truth, field)), field
    for key in ((0, 1), (1, 100)):
        (image, target), (other, their_target) = voc.train[key], coco.train[key]
        assert torch.equal(image, other)
        assert torch.equal(target["boxes"], their_target["boxes"])
        assert target["labels"].tolist() == their_target["labels"].tolist()
    assert (len(voc.train), len(voc.val), len(voc.test)) == (252, 44, 67)


def test_wrong_detection_arguments_are_named(tmp_path):
    """An unknown data set, data.images for VOC and a side of 0 pixels."""
    assert "'vco'" in error_of(lambda: DetectionDataModule("vco", tmp_path))
    assert "data.images" in error_of(lambda: DetectionDataModule("voc", tmp_path, images="x"))
    with pytest.raises(ValueError, match="shorter_side is 0"):
        DetectionSplit(annotations(tmp_path, []), 0)
