"""EXIF orientation, against PIL's own ImageOps: which images are turned, and what is said where nothing decides it."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from dcnlab.data.classification.data_module import ImageFolderDataModule
from dcnlab.data.classification.image_folder import ImageFolderSplit
from dcnlab.data.detection.coco import read_coco
from dcnlab.data.detection.data_module import DetectionDataModule
from dcnlab.data.detection.split import DetectionSplit
from dcnlab.data.detection.voc import read_voc
from dcnlab.data.segmentation.split import SegmentationSplit
from dcnlab.io.image_file import image_size, read_image
from dcnlab.io.orientation import Orientation

PLAIN = {"mean": (0, 0, 0), "std": (1, 1, 1)}


def save(path, orientation, size=(4, 6)):
    """Save noise, without loss, under an EXIF orientation; returns its pixels stored and upright."""
    pixels = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, exif=exif, **({"lossless": True} if path.suffix == ".webp" else {}))
    upright = Image.fromarray(pixels)
    upright.getexif()[0x0112] = orientation
    return pixels, np.asarray(ImageOps.exif_transpose(upright))


@pytest.fixture
def said(caplog):
    """Gives the warnings of the package so far."""
    caplog.set_level(logging.WARNING, "dcnlab")
    return lambda: caplog.messages


@pytest.mark.parametrize("ending", [".png", ".webp", ".tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_rotated_as_in_pillow(tmp_path, ending, orientation):
    """Eight orientations in PNG, WebP and TIFF; the reported size follows the rule, too."""
    path = tmp_path / f"a{ending}"
    stored, upright = save(path, orientation)
    assert np.array_equal(read_image(path, Orientation("apply")), upright)
    assert np.array_equal(read_image(path, Orientation("ignore")), stored)
    assert np.array_equal(read_image(path), stored)
    assert image_size(path, Orientation("apply")) == upright.shape[:2]
    assert image_size(path, Orientation("ignore")) == stored.shape[:2]


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_the_annotated_size_decides_about_rotation(tmp_path, said, orientation):
    """For orientations that swap the sides, the annotation's size chooses; no warning is needed."""
    path = tmp_path / "a.png"
    stored, upright = save(path, orientation)
    for annotated, expected in (((6, 4), upright), ((4, 6), stored)):
        assert np.array_equal(read_image(path, Orientation(), annotated), expected)
    assert said() == []


@pytest.mark.parametrize(("orientation", "size"), [(2, (4, 6)), (3, (4, 6)), (4, (4, 6)), (6, (5, 5)), (3, (5, 5))])
def test_ambiguous_orientations_rotate_with_one_warning(tmp_path, said, orientation, size):
    """Where the size fits both, images are rotated and the first is named with the two settings."""
    rule = Orientation()
    for name in ("a.png", "b.png"):
        _, upright = save(tmp_path / name, orientation, size)
        assert np.array_equal(read_image(tmp_path / name, rule, size), upright)
    assert len(said()) == 1
    for part in (str(tmp_path / "a.png"), f"orientation {orientation}", "data.exif=apply", "data.exif=ignore"):
        assert part in said()[0]


def test_damaged_exif_is_no_orientation(tmp_path, said):
    """The image is taken as stored, without a warning."""
    path = tmp_path / "a.jpg"
    Image.new("RGB", (6, 4)).save(path, exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    assert read_image(path, Orientation()).size == (6, 4)
    assert said() == []


def coco(root, orientation, height, width, count=1):
    """A split of images of 4 x 6 stored pixels with a box at the left, annotated as of this height and width."""
    images = [{"id": n, "file_name": f"{n}.png", "height": height, "width": width} for n in range(count)]
    boxes = [{"id": n, "image_id": n, "category_id": 1, "bbox": [0, 0, 2, 3]} for n in range(count)]
    (root / "annotations").mkdir(exist_ok=True)
    content = {"images": images, "categories": [{"id": 1, "name": "cat"}], "annotations": boxes}
    (root / "annotations/instances_train.json").write_text(json.dumps(content))
    saved = [save(root / f"train/{n}.png", orientation) for n in range(count)]
    return saved[0]


def test_a_rotated_coco_photo_keeps_its_boxes(tmp_path):
    """The image is rotated, and boxes, which belong to the rotated image, stay as annotated."""
    _, upright = coco(tmp_path, 6, 6, 4)
    image, target = DetectionSplit(read_coco(tmp_path, "train"), None, None, **PLAIN)[0]
    assert torch.equal((image * 255).round().byte(), torch.tensor(upright).permute(2, 0, 1))
    assert target["boxes"].tolist() == [[0, 0, 2, 3]]
    assert target["size"] == (6, 4)


@pytest.mark.parametrize(("exif", "height", "width"), [("ignore", 6, 4), ("apply", 4, 6), ("auto", 4, 5)])
def test_a_size_that_contradicts_the_exif_rule_is_refused(tmp_path, exif, height, width):
    """One line names the file, its size, its orientation and the rule of data.exif."""
    coco(tmp_path, 6, height, width)
    split = DetectionSplit(read_coco(tmp_path, "train"), orientation=Orientation(exif))
    with pytest.raises(ValueError, match=r"\A[^\n]*0\.png has height [^\n]*orientation|ignore[^\n]*\Z"):
        split[0]


def test_loader_workers_warn_once_together(tmp_path, capfd, monkeypatch):
    """Each worker process has its own warning state; stderr must still hold one line."""
    coco(tmp_path, 3, 4, 6, count=12)
    data = DetectionDataModule(
        "coco", tmp_path, val=None, test="train", shorter_side=None, longer_side=None, batch_size=1, workers=2
    )
    # Of the real stderr, which forked processes share; a run that this process made before may have left another one.
    monkeypatch.setattr(logging.getLogger("dcnlab"), "handlers", [logging.StreamHandler()])
    assert len(list(data.test_dataloader())) == len(list(data.train_dataloader())) == 12
    assert capfd.readouterr().err.count("EXIF orientation 3") == 1


def test_voc_without_a_size_uses_the_rotated_image(tmp_path):
    """The size comes from the image as data.exif shows it, and boxes are checked against that."""
    for part in ("Annotations", "ImageSets/Main"):
        (tmp_path / part).mkdir(parents=True)
    save(tmp_path / "JPEGImages/a.png", 6)
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>4</xmax><ymax>6</ymax></bndbox>"
    (tmp_path / "Annotations/a.xml").write_text(f"<annotation><object><name>cat</name>{box}</object></annotation>")
    assert read_voc(tmp_path, None).sizes.tolist() == [[6, 4]]
    with pytest.raises(ValueError, match="leaves the image"):
        read_voc(tmp_path, None, orientation=Orientation("ignore"))


@pytest.mark.parametrize("turned", [True, False])
def test_a_label_image_decides_the_photos_rotation(tmp_path, said, turned):
    """The photo is rotated to fit its label's size; the label itself is never rotated."""
    stored, upright = save(tmp_path / "a.png", 6)
    expected = upright if turned else stored
    label = np.arange(24, dtype=np.uint8).reshape(expected.shape[:2])
    Image.fromarray(label).save(tmp_path / "label.png")
    split = SegmentationSplit([(tmp_path / "a.png", tmp_path / "label.png")], [str(n) for n in range(24)], **PLAIN)
    image, found = split[0]
    assert torch.equal((image * 255).round().byte(), torch.tensor(expected).permute(2, 0, 1))
    assert np.array_equal(found, label)
    assert said() == []


def test_image_folders_are_not_rotated_by_default(tmp_path, said):
    """Without annotations a warning names the first image with an orientation; data.exif=apply rotates."""
    for split in ("train", "test"):
        stored, upright = save(tmp_path / split / "cat/a.png", 3, (32, 32))
    kept = {exif: _first(tmp_path, exif) for exif in ("auto", "apply", "ignore")}
    assert torch.equal(kept["auto"], kept["ignore"])
    assert torch.equal(kept["apply"], kept["ignore"].flip(1, 2))
    assert not np.array_equal(stored, upright)
    assert len(said()) == 1
    assert "a.png has the EXIF orientation 3" in said()[0]
    assert "taken as stored" in said()[0]


def _first(root: Path, exif: str) -> torch.Tensor:
    # The shorter side becomes 32 pixels, of which 28 are the crop: the middle, which a half turn keeps in place.
    data = ImageFolderDataModule(root, val="test", image_size=28, exif=exif)
    assert isinstance(data.test, ImageFolderSplit)
    return data.test[0][0]
