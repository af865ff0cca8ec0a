"""Image folders: what is read, in which order, and what is said about a folder that is not right."""

from pathlib import Path

import numpy as np
import pytest
import torch
from locations import SHARED
from PIL import Image

from dcnlab.data.classification.data_module import ImageFolderDataModule
from dcnlab.data.classification.image_folder import ImageFolderSplit

FLOWERS = SHARED / "data/flowers12"


@pytest.fixture
def root(tmp_path):
    """Two splits of two classes; the picture's red is 10 times its number, its green tells the class."""
    for split, count in (("train", 20), ("test", 3)):
        for label, name in enumerate(("daisy", "tulip")):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = np.zeros((40, 30, 3), np.uint8)
                pixels[..., 0], pixels[..., 1] = 10 * number, 100 * label
                Image.fromarray(pixels).save(folder / f"{number:02}.png")
    return tmp_path


def test_evaluation_images_are_cropped_and_normalized(root):
    """A colour of known value is normalized by ImageNet's mean and std, by hand."""
    image, label = ImageFolderSplit(root, "test", image_size=16)[5]
    assert label == 1
    assert image.shape == (3, 16, 16)
    # Red 20, green 100, blue 0 of 255, by hand.
    want = [(20 / 255 - 0.485) / 0.229, (100 / 255 - 0.456) / 0.224, (0 - 0.406) / 0.225]
    assert torch.allclose(image.mean((1, 2)), torch.tensor(want), atol=1e-5)


def test_null_validation_holds_out_every_tenth_training_image(root):
    """data.val=null takes every tenth training image of each class."""
    data = ImageFolderDataModule(root, image_size=16)
    held = [Path(path).name for path, _ in data.val.samples]
    assert held == ["09.png", "19.png"] * 2
    kept = {path for path, _ in data.train.samples}
    assert len(kept) == 36
    assert not kept & {path for path, _ in data.val.samples}
    assert len(data.test) == 6


def test_a_validation_folder_leaves_the_training_images_alone(root):
    data = ImageFolderDataModule(root, val="test", image_size=16)
    assert (len(data.train), len(data.val)) == (40, 6)


def test_chosen_classes_are_labelled_in_their_order(root):
    data = ImageFolderDataModule(root, classes=["tulip", "daisy"], image_size=16)
    assert data.classes == ["tulip", "daisy"]
    assert {(Path(path).parent.name, label) for path, label in data.test.samples} == {("tulip", 0), ("daisy", 1)}
    assert ImageFolderDataModule(root, classes=["tulip"], image_size=16).test.samples[0][1] == 0


def test_augmentation_depends_on_seed_epoch_and_image(root):
    """torch's random state has no influence and does not change."""
    split = ImageFolderSplit(root, "train", image_size=16, augment=True, seed=3)
    state = torch.get_rng_state()
    image = split[2, 7][0]
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    assert torch.equal(ImageFolderSplit(root, "train", image_size=16, augment=True, seed=3)[2, 7][0], image)


def test_augmentation_differs_between_seeds_and_epochs(tmp_path):
    """A noise image shows any change of crop or flip."""
    folder = tmp_path / "train" / "noise"
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "0.png")
    one, two = (ImageFolderSplit(tmp_path, "train", image_size=16, augment=True, seed=seed) for seed in (0, 1))
    assert not torch.equal(one[0, 0][0], one[1, 0][0])
    assert not torch.equal(one[0, 0][0], two[0, 0][0])


def test_loader_workers_see_the_same_augmented_images(root):
    batches = []
    for workers in (0, 2):
        data = ImageFolderDataModule(root, image_size=16, batch_size=12, workers=workers, seed=5)
        batches.append([batch for batch in data.train_dataloader()])
    for here, there in zip(*batches, strict=True):
        assert torch.equal(here[0], there[0])
        assert torch.equal(here[1], there[1])


def error_of(make):
    """The error's text, which is one line."""
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z") as caught:
        make()
    return str(caught.value)


def test_a_missing_root_or_split_is_named_with_what_is_there(root):
    missing = root / "nowhere"
    assert str(missing) in error_of(lambda: ImageFolderDataModule(missing))
    message = error_of(lambda: ImageFolderDataModule(root, val="val"))
    assert "'val'" in message
    assert "test, train" in message


def test_an_empty_class_is_named_with_the_endings_expected(root):
    (root / "test" / "lily").mkdir()
    message = error_of(lambda: ImageFolderSplit(root, "test"))
    assert str(root / "test" / "lily") in message
    assert ".jpg" in message


def test_an_unknown_class_names_the_nearest(root):
    message = error_of(lambda: ImageFolderDataModule(root, classes=["daisy", "tulips"]))
    assert "'tulips'" in message
    assert "'tulip'" in message


def test_splits_with_different_classes_are_refused(root):
    (root / "test" / "lily").mkdir()
    Image.new("RGB", (8, 8)).save(root / "test" / "lily" / "0.png")
    assert "lily" in error_of(lambda: ImageFolderDataModule(root))


@pytest.mark.parametrize("content", [b"not an image", b"\x89PNG\r\n\x1a\n", b""])
def test_a_corrupt_image_is_named(root, content):
    path = root / "test" / "daisy" / "01.png"
    path.write_bytes(content)
    split = ImageFolderSplit(root, "test", image_size=16)
    assert str(path) in error_of(lambda: split[1])


def test_a_truncated_image_is_named(root):
    path = root / "test" / "daisy" / "01.png"
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:900])
    split = ImageFolderSplit(root, "test", image_size=16)
    assert str(path) in error_of(lambda: split[1])


def test_too_few_images_to_hold_out_name_data_val(root):
    """Less than ten images of a class leave none for validation; the error names the key."""
    assert "data.val" in error_of(lambda: ImageFolderDataModule(root, train="test"))


@pytest.mark.skipif(not FLOWERS.is_dir(), reason="needs the flowers12 folder beside the checkout")
def test_flowers12_has_the_counts_of_its_readme():
    """697 training and 240 test images of 12 classes, normalized near 0 and 1."""
    data = ImageFolderDataModule(FLOWERS, image_size=64, batch_size=50)
    assert len(data.train) + len(data.val) == 697
    assert len(data.test) == 240
    assert len(data.classes) == 12
    images, labels = next(iter(data.test_dataloader()))
    assert images.shape == (50, 3, 64, 64)
    # Of photographs normalised by ImageNet's statistics: near 0 and 1.
    assert abs(images.mean()) < 1
    assert 0.5 < images.std() < 2
    assert labels.tolist()[:20] == [0] * 20
