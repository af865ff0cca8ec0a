"""A small image file makes no large tensor or picture, and keeps no decoder busy: what it makes is known before."""

import io
import struct
import time

import numpy as np
import pytest
import torch
from PIL import Image

from dcnlab.data.classification.image_folder import ImageFolderSplit
from dcnlab.data.detection.annotations import Annotations
from dcnlab.data.detection.split import DetectionSplit
from dcnlab.data.labels import read_label
from dcnlab.data.photographs import strings
from dcnlab.data.segmentation.padding import pad_collate
from dcnlab.data.segmentation.split import SegmentationSplit
from dcnlab.io import image_file, image_heads
from dcnlab.io.errors import ConfigError, DataError
from dcnlab.io.image_file import MOST_PIXELS, read_image
from dcnlab.io.memory import enough_memory, is_out
from dcnlab.models.image_batch import pad_images
from dcnlab.tasks.box_pictures import detection_panel
from dcnlab.tasks.label_pictures import segmentation_panel
from dcnlab.tasks.pictures import LARGEST, shown_size


def annotations(root, name, height, width):
    """A detection data set of one image with one box."""
    return Annotations(
        root, ("cat",), strings([name]), np.array([1]), np.array([[height, width]]), np.array([0, 1]),
        np.array([[0.0, 0, 1, 1]]), np.array([1]), np.array([1.0]), np.array([False]), np.array([False]), np.array([1]),
    )  # fmt: skip


@pytest.fixture(params=[(60000, 1), (1, 60000), (2, 50000)], ids=["tall", "wide", "two rows"])
def strip(request, tmp_path):
    """An image folder of one strip; its path and size."""
    height, width = request.param
    path = tmp_path / "train/a/strip.png"
    path.parent.mkdir(parents=True)
    Image.new("RGB", (width, height)).save(path)
    Image.new("L", (width, height)).save(tmp_path / "label.png")
    return path, height, width


@pytest.mark.parametrize(
    ("kind", "augment"),
    [
        ("classification", False), ("detection", False), ("detection", True), ("segmentation", False),
        ("segmentation", True), ("multi-scale test", False), ("scales", False),
    ],
)  # fmt: skip
def test_a_strip_that_resizes_to_gigabytes_is_refused(strip, monkeypatch, kind, augment):
    """A long thin image is refused before decoding, and the error names the resizing key."""
    path, height, width = strip
    pairs = [(path, path.parents[2] / "label.png")]
    boxes = annotations(path.parents[2], "train/a/strip.png", height, width)
    split, how = {
        "classification": (lambda: ImageFolderSplit(path.parents[2], "train"), "data.image_size 224"),
        "detection": (lambda: DetectionSplit(boxes, 600, None, augment=augment), "data.shorter_side 600"),
        "segmentation": (
            lambda: SegmentationSplit(pairs, ["a"], shorter_side=300, random_scale=(0.5, 2.0), augment=augment),
            "data.shorter_side 300" + " and data.random_scale" * augment,
        ),
        "multi-scale test": (
            lambda: DetectionSplit(boxes, None, None, test_sides=[48, 1400]),
            "test.shorter_sides 1400",
        ),
        "scales": (lambda: SegmentationSplit(pairs, ["a"], test_scale=50.0), "test.scales 50.0"),
    }[kind]
    decoded = []
    plain = image_file.decode
    monkeypatch.setattr(image_file, "decode", lambda image: (decoded.append(image), plain(image)))
    with pytest.raises(ValueError, match="pixels; allowed are 89478485") as caught:
        split()[0]
    said = str(caught.value)
    assert type(caught.value) is DataError
    assert said.startswith(f"{path} has height {height} and width {width}, and {how}")
    assert "\n" not in said
    assert decoded == []


def test_a_strip_within_the_limits_is_read(strip):
    """Where longer_side limits it, an image of extreme shape is not a reason to refuse."""
    path, height, width = strip
    image, _ = DetectionSplit(annotations(path.parents[2], "train/a/strip.png", height, width), 600, 1000)[0]
    assert max(image.shape) == 1000
    image, _ = SegmentationSplit([(path, path.parents[2] / "label.png")], ["a"])[0]
    assert image.shape == (3, height, width)
    image, _ = ImageFolderSplit(path.parents[2], "train", augment=True, image_size=32)[0]
    assert image.shape == (3, 32, 32)


def test_the_pixel_limit_uses_the_largest_random_scale(tmp_path):
    """Refusal depends on data.random_scale's maximum, not on the factor drawn, so it is not random."""
    Image.new("RGB", (300, 300)).save(tmp_path / "x.png")
    Image.new("L", (300, 300)).save(tmp_path / "y.png")
    side = int(MOST_PIXELS**0.5)
    for most, fits in ((1.0, True), (1.01, False)):
        pairs = [(tmp_path / "x.png", tmp_path / "y.png")]
        split = SegmentationSplit(pairs, ["a"], shorter_side=side, random_scale=(0.01, most), augment=True)
        high, wide, _ = split.made(300, 300)
        assert (high * wide <= MOST_PIXELS) is fits
        if not fits:
            with pytest.raises(ValueError, match=r"data\.random_scale"):
                split[0]


def test_the_pixel_limit_includes_padding_to_a_crop(tmp_path):
    """An image of 60000x1 pixels padded to a crop would take gigabytes."""
    Image.new("RGB", (60000, 1)).save(tmp_path / "x.png")
    Image.new("L", (60000, 1)).save(tmp_path / "y.png")
    pairs = [(tmp_path / "x.png", tmp_path / "y.png")]
    with pytest.raises(ValueError, match=r"data\.crop_size \(2000, 2000\) would make height 2000 and width 60000"):
        SegmentationSplit(pairs, ["a"], crop_size=(2000, 2000), augment=True)[0]


def test_a_tall_and_a_wide_image_are_not_batched():
    """Together they would be padded to 60000 x 60000 pixels each."""
    tall, wide = torch.zeros(3, 60000, 1), torch.zeros(3, 1, 60000)
    label = [torch.zeros(image.shape[1:], dtype=torch.int64) for image in (tall, wide)]
    with pytest.raises(ValueError, match="padded to 60000 x 60000 pixels each; allowed are 89478485"):
        pad_collate([(tall, label[0]), (wide, label[1])])
    with pytest.raises(ConfigError, match="padded to 60000 x 60000 pixels each"):
        pad_images([tall, wide], 16)
    assert pad_images([wide], 16).tensors.shape == (1, 3, 16, 60000)


# Pictures


def test_panels_stay_small_whatever_the_image():
    """Images of 1x60000 or 1x1 pixels give panels within the size limit."""
    for height, width in ((1, 60000), (60000, 1), (1, 1), (3000, 4000)):
        label = torch.zeros(height, width, dtype=torch.int64)
        image = Image.new("RGB", (width, height))
        panel = segmentation_panel(image, label, label, ["a"])
        assert max(panel.size) <= 3 * LARGEST + 200
        found = {"boxes": torch.tensor([[0.0, 0, width, height]]), "labels": torch.tensor([1]), "scores": torch.ones(1)}
        panel = detection_panel(image, {key: found[key] for key in ("boxes", "labels")}, found, ["a"])
        assert max(panel.size) <= 2 * LARGEST + 200


def test_pictures_are_enlarged_by_the_same_factors_as_before():
    """Display sizes of four ordinary images equal those worked out by hand."""
    # Height, width, the shorter side wanted, then width and height: by hand.
    cases = [(28, 28, 168, (168, 168)), (96, 128, 336, (512, 384)), (500, 375, 336, (375, 500))]
    for height, width, least, size in [*cases, (1024, 2048, 168, (2048, 1024))]:
        assert shown_size(height, width, least) == size


def test_boxes_match_a_picture_that_was_made_smaller():
    """A box on an image of 4096x2048 is drawn at half its coordinates, its name above it."""
    image = Image.new("RGB", (4096, 2048))
    boxes = {"boxes": torch.tensor([[2048.0, 1024, 4096, 2048]]), "labels": torch.tensor([1])}
    none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "scores": torch.zeros(0)}
    panel = np.asarray(detection_panel(image, boxes, none, ["a"]))
    left = panel[18 : 18 + 1024, 6 : 6 + 2048]
    rows, columns = np.nonzero(left.any(-1))
    assert (rows.max(), columns.min(), columns.max()) == (1023, 1024, 2047)
    assert rows.min() == 512 - 16 + 1  # its name stands above it, within a black rim


@pytest.mark.parametrize("name", ["a\nb", "\x1b[31m", "\u202eevil", "x" * 10_000, "\udce9"])
def test_any_class_name_can_be_drawn(name):
    """Line breaks, escapes, very long names and lone surrogates."""
    label = torch.zeros(8, 8, dtype=torch.int64)
    panel = segmentation_panel(Image.new("RGB", (8, 8)), label, label, [name])
    assert max(panel.size) < 1500
    found = {"boxes": torch.tensor([[0.0, 0, 4, 4]]), "labels": torch.tensor([1]), "scores": torch.ones(1)}
    detection_panel(Image.new("RGB", (8, 8)), found, found, [name])


# Heads that keep decoders busy


def scans(count):
    """A progressive JPEG whose second scan, of AC coefficients, is there `count` times."""
    file = io.BytesIO()
    Image.fromarray(np.arange(4096, dtype=np.uint8).reshape(64, 64)).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    starts = [at for at in range(len(content)) if content[at : at + 2] == b"\xff\xda"]
    end = content.index(b"\xff\xc4", starts[1])  # the tables of the third
    return content[:end] + content[starts[1] : end] * (count - 1) + content[end:]


def test_a_jpeg_of_thousands_of_scans_is_refused(tmp_path):
    """Each scan decodes the whole image again; up to 64 are allowed."""
    path = tmp_path / "x.jpg"
    path.write_bytes(scans(20))
    assert read_image(path).size == (64, 64)
    for count in (image_heads.MOST_SCANS, 2000):
        path.write_bytes(scans(count))
        for read in (read_image, read_label):
            with pytest.raises(ValueError, match=r"\A[^\n]*x\.jpg cannot be read[^\n]*more than 64 scans[^\n]*\Z"):
                read(path)


def test_fake_scans_in_a_thumbnail_or_trailer_are_ignored(tmp_path):
    """Bytes like JPEG scan markers in EXIF or after the end do not count toward the scan limit."""
    file = io.BytesIO()
    Image.new("RGB", (32, 32)).save(file, "JPEG", progressive=True, exif=b"Exif\0\0" + b"\xff\xda" * 1000)
    path = tmp_path / "x.jpg"
    path.write_bytes(file.getvalue() + b"\xff\xda\0\2" * 1000)
    assert read_image(path).size == (32, 32)


def test_a_ppm_with_an_endless_comment_is_refused_at_once(tmp_path):
    """Only 64 KiB of a header of 256 MiB are read."""
    path = tmp_path / "x.ppm"
    with path.open("wb") as file:
        file.write(b"P6\n# ")
        file.truncate(2**28)
    began = time.process_time()
    with pytest.raises(ValueError, match="its header is longer than 64 KiB"):
        read_image(path)
    assert time.process_time() - began < 10  # it takes milliseconds


def test_comments_in_ppm_pixels_are_limited(tmp_path):
    """PIL needs quadratic time for many comments."""
    path = tmp_path / "x.ppm"
    path.write_bytes(b"P3\n# ours\n2 1\n255\n" + b"#\n" * 300_000 + b"1 2 3 4 5 6\n")
    with pytest.raises(ValueError, match="300001 comments; allowed are 1000"):
        read_image(path)
    path.write_bytes(b"P3\n# ours\n2 1\n255\n#\n1 2 3 4 5 6\n")
    assert read_image(path).getpixel((1, 0)) == (4, 5, 6)
    path.write_bytes(b"P6\n# " + b"x" * 50_000 + b"\n1 1\n255\nabc")
    assert read_image(path).getpixel((0, 0)) == (97, 98, 99)


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_tiff_of_millions_of_strips_is_refused(tmp_path, order):
    """Each strip costs an entry in PIL's lists, in either byte order."""
    mark = b"II*\0" if order == "<" else b"MM\0*"
    fields = [(256, 4, 1, 8), (257, 4, 1, 8), (273, 4, 2_000_000, 200), (279, 4, 2_000_000, 200)]
    entries = b"".join(struct.pack(f"{order}HHII", *field) for field in fields)
    path = tmp_path / "x.tif"
    with path.open("wb") as file:
        file.write(mark + struct.pack(f"{order}IH", 8, len(fields)) + entries + bytes(4))
        file.truncate(9_000_000)
    with pytest.raises(ValueError, match="a tag of it has 2000000 values; allowed are 1048576"):
        read_image(path)


def test_a_sparse_file_of_a_tebibyte_is_not_an_image(tmp_path):
    """It is refused by its size, above the limit of 512 MiB."""
    path = tmp_path / "x.webp"
    with path.open("wb") as file:
        file.write(b"RIFF\xff\xff\xff\xffWEBPVP8 ")
        file.truncate(2**40)
    with pytest.raises(ValueError, match="larger than 512 MiB"):
        read_image(path)


def test_out_of_memory_names_the_file():
    """Errors of other kinds pass through unchanged."""
    for error in (
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        np.linalg.LinAlgError("x"),
    ):
        with pytest.raises((ValueError, np.linalg.LinAlgError)) as caught, enough_memory("x.png"):
            raise error
        assert str(caught.value).startswith("x.png: there is not enough memory") is is_out(error)
