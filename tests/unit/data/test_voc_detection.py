"""VOC's boxes: what is read, against torchvision's reader, and what is said about files that are not right."""

import random
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from locations import SHARED
from PIL import Image
from torchvision.datasets import VOCDetection

from dcnlab.data.detection.voc import VOC_CLASSES, read_voc
from dcnlab.metrics.boxes import GroundTruth

SHARED = SHARED / "data"
VOC100, VOC_DET, TOY = SHARED / "voc100", SHARED / "loader_samples/voc_det", SHARED / "eval_oracles/voc_toy_cat"
needs_voc100 = pytest.mark.skipif(not VOC100.is_dir(), reason="needs the voc100 folder beside the checkout")

OBJECT = """<object><name>{name}</name><difficult>{difficult}</difficult>
<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>
<bndbox><xmax>{xmax}</xmax><xmin>{xmin}</xmin><ymax>{ymax}</ymax><ymin>{ymin}</ymin></bndbox></object>"""


def xml(*objects, size="<size><width>40</width><height>30</height><depth>3</depth></size>"):
    """An annotation of objects (name, xmin, ymin, xmax, ymax) or with a sixth number, difficult."""
    keys = ("name", "xmin", "ymin", "xmax", "ymax", "difficult")
    lines = [OBJECT.format(**dict(zip(keys, (*values, 0)[:6], strict=True))) for values in objects]
    return f"<annotation>{size}{''.join(lines)}</annotation>"


def add(folder, name, annotation, split="train"):
    """Put an image of 30 x 40 pixels, its annotation and its name's line into a VOC-style folder."""
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30)).save(folder / "JPEGImages" / f"{name}.jpg")
    (folder / "Annotations" / f"{name}.xml").write_text(annotation)
    with open(folder / "ImageSets/Main" / f"{split}.txt", "a") as file:
        file.write(f"{name}\n")


@pytest.fixture
def root(tmp_path):
    """A VOC-style folder: one image with a cat and a difficult dog."""
    add(tmp_path, "one", xml(("cat", 1, 1, 40, 30), ("dog", 3, 4, 5, 6, 1)))
    return tmp_path


def error_of(make):
    """The error's text, which is one line."""
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z") as caught:
        make()
    return str(caught.value)


def test_one_based_corners_become_zero_based_and_exclusive(root):
    """A VOC box of columns 3 to 5 becomes 2 to 5, and a full box covers the image."""
    data = read_voc(root, "train")
    # The cat fills the image of 40 x 30 pixels; the dog covers columns 3, 4, 5 and rows 4, 5, 6, counted from 1.
    assert data.boxes.tolist() == [[0, 0, 40, 30], [2, 3, 5, 6]]
    assert data.sizes.tolist() == [[30, 40]]
    assert data.areas.tolist() == [1200, 9]
    assert [VOC_CLASSES[label - 1] for label in data.labels] == ["cat", "dog"]


def test_difficult_objects_are_scored_and_not_trained_on(root):
    """The metric gets difficult boxes with their mark; the detector does not get them."""
    data = read_voc(root, "train")
    assert data.trainable()[1].tolist() == [True, False]
    truth = GroundTruth.of_annotations(data)
    assert truth.boxes.tolist() == [[0, 0, 40, 30], [2, 3, 3, 3]]
    assert truth.difficult.tolist() == [False, True]
    assert truth.images.tolist() == [0, 0]
    assert [truth.names[position] for position in truth.classes] == ["cat", "dog"]
    assert len(truth.names) == 20


@needs_voc100
@pytest.mark.parametrize(
    ("folder", "year", "split"),
    [(VOC100, "2012", "train"), (VOC100, "2012", "val"), (VOC_DET, "2007", "trainval"), (VOC_DET, "2007", "test")],
)
def test_real_voc_files_equal_torchvisions_reading(folder, year, split):
    """Names, boxes and difficult flags equal torchvision.datasets.VOCDetection."""
    # Torchvision looks for a VOC2007 test set in another folder; its trainval list here is the same four images.
    theirs = VOCDetection(str(folder), year, "trainval" if year == "2007" else split)
    ours = read_voc(folder, f"{year}/{split}")
    assert len(ours) == len(theirs)
    for index, (image, annotation) in enumerate(theirs):
        said = annotation["annotation"]
        assert (ours.root / str(ours.files[index])).name == said["filename"]
        assert ours.sizes[index].tolist() == [image.height, image.width]
        mine = slice(*ours.offsets[index : index + 2])
        want = [
            [float(o["bndbox"][k]) - k.endswith("min") for k in ("xmin", "ymin", "xmax", "ymax")]
            for o in said["object"]
        ]
        assert ours.boxes[mine].tolist() == want
        assert [ours.classes[label - 1] for label in ours.labels[mine]] == [o["name"] for o in said["object"]]
        assert ours.difficult[mine].tolist() == [o["difficult"] == "1" for o in said["object"]]


@pytest.mark.skipif(not TOY.is_dir(), reason="needs the eval_oracles folder beside the checkout")
def test_scoring_needs_neither_images_nor_lists():
    """All annotations of a folder are read where neither JPEGImages nor ImageSets exist."""
    truth = read_voc(TOY, None, images=False)
    boxes = sum(len(ElementTree.parse(path).findall("object")) for path in TOY.glob("Annotations/*.xml"))
    assert len(truth.boxes) == boxes == 12
    assert [Path(str(name)).stem for name in truth.files] == sorted(path.stem for path in TOY.glob("Annotations/*.xml"))


def test_years_are_joined_in_the_order_given(tmp_path):
    """A split of two years must name both; without a year it is refused."""
    for year in (2007, 2012):
        add(tmp_path / f"VOCdevkit/VOC{year}", f"a{year}", xml(("cow", 1, 1, 9, 9)), "trainval")
    for folder in (tmp_path, tmp_path / "VOCdevkit"):
        data = read_voc(folder, ["2012/trainval", "2007/trainval"])
        assert [Path(str(name)).stem for name in data.files] == ["a2012", "a2007"]
        assert all((folder / str(name)).is_file() for name in data.files)
        assert data.offsets.tolist() == [0, 1, 2]
    message = error_of(lambda: read_voc(tmp_path, "trainval"))
    assert "2007/trainval, 2012/trainval" in message
    # A year alone, and no split at all as `dcnlab score` may have it, are told the same.
    for splits, named in (("2007", "split '2007'"), (None, "no split of")):
        message = error_of(lambda splits=splits: read_voc(tmp_path, splits, images=False))
        assert named in message
        assert "say one of 2007/trainval, 2012/trainval" in message
    assert "nearest is '2007'" in error_of(lambda: read_voc(tmp_path, "2008/trainval"))
    assert "again" in error_of(lambda: read_voc(tmp_path, ["2007/trainval", "2007/trainval"]))


def test_a_single_voc_year_need_not_be_named(tmp_path):
    """Where the folder holds one year, "train" is enough."""
    add(tmp_path / "VOCdevkit/VOC2007", "a", xml())
    assert len(read_voc(tmp_path, "train")) == len(read_voc(tmp_path / "VOCdevkit/VOC2007", "2007/train")) == 1


def test_class_lists_skip_images_marked_minus_1(root):
    """As in VOC, -1 means that the image lacks the class; mixed lists are refused."""
    for name in ("two", "three", "four 4"):
        add(root, name, xml())
    (root / "ImageSets/Main/cat_train.txt").write_text("one  1\r\n\r\ntwo -1\nthree  0\n")
    assert read_voc(root, "cat_train").image_ids.tolist() == ["one", "three"]
    (root / "ImageSets/Main/mixed.txt").write_text("one  1\ntwo -1\nfour 4\n")
    assert "one  1.jpg" in error_of(lambda: read_voc(root, "mixed"))


def test_images_without_objects_and_with_other_endings_are_read(root):
    add(root, "none", xml())
    (root / "JPEGImages/none.jpg").unlink()
    Image.new("RGB", (40, 30)).save(root / "JPEGImages/none.png")
    data = read_voc(root, "train")
    assert data.offsets.tolist() == [0, 2, 2]
    assert data.files[1] == "JPEGImages/none.png"


def test_fractional_corners_and_missing_sizes_are_read(root):
    """Some VOC files have fractions and no size; the size then comes from the image."""
    add(root, "two", xml(("cat", 45.5 - 20, 1, 40, 29.25), size=""))
    data = read_voc(root, "train")
    assert data.boxes[-1].tolist() == [24.5, 0, 40, 29.25]
    assert data.sizes[1].tolist() == [30, 40]


def test_boxes_beyond_the_border_are_cut_only_for_training(root):
    """VOC has boxes one pixel too large; scoring uses them as they are."""
    add(root, "two", xml(("cat", 0, 0, 41, 31)))
    data = read_voc(root, "train")
    assert data.boxes[-1].tolist() == [-1, -1, 41, 31]
    assert data.trainable()[0][-1].tolist() == [0, 0, 40, 30]


def test_classes_come_from_the_folder_or_the_config(root):
    """classes.txt or data.classes replace VOC's twenty, in their order."""
    add(root, "two", xml(("king", 1, 1, 9, 9)))
    assert read_voc(root, "train", classes=["king", "dog", "cat"]).labels.tolist() == [3, 2, 1]
    message = error_of(lambda: read_voc(root, "train"))
    assert "two.xml object 1" in message
    assert "'king'" in message
    assert "VOC's twenty" in message
    assert "classes.txt" in message
    (root / "classes.txt").write_text("cat\nking\n\ndog\n")
    assert read_voc(root, "train").classes == ("cat", "king", "dog")
    chosen = read_voc(root, "train", classes=["king"])
    assert (chosen.labels.tolist(), chosen.offsets.tolist()) == ([1], [0, 0, 1])
    assert "nearest is 'king'" in error_of(lambda: read_voc(root, "train", classes=["kings"]))
    (root / "classes.txt").write_text("cat\nking\ncat\n")
    assert "'cat' twice" in error_of(lambda: read_voc(root, "train"))


def test_an_unknown_class_names_file_object_and_nearest(root):
    add(root, "two", xml(("cat", 1, 1, 9, 9), ("persom", 1, 1, 9, 9)))
    message = error_of(lambda: read_voc(root, "train"))
    assert "two.xml object 2" in message
    assert "nearest is 'person'" in message


@pytest.mark.parametrize(
    ("annotation", "named"),
    [
        (xml(("cat", 9, 1, 8, 9)), "object 1 has the box xmin 9, ymin 1, xmax 8, ymax 9; needs xmin <= xmax"),
        (xml(("cat", 1, 1, 1, 1), ("cat", 1, 9, 8, 8)), "object 2 has the box"),
        (xml(("cat", 1, 1, 43, 9)), "leaves the image of width 40 and height 30"),
        (xml(("cat", -5, 1, 9, 9)), "leaves the image"),
        (xml(("cat", "x", 1, 9, 9)), "<xmin> 'x', should be a number"),
        (xml(("cat", "nan", 1, 9, 9)), "<xmin> 'nan', should be a number"),
        (xml(("cat", 1, 1, 9, 9, "maybe")), "<difficult> 'maybe', should be 0 or 1"),
        (xml(("", 1, 1, 9, 9)), "object 1 has no <name>"),
        ("<annotation><object><name>cat</name></object></annotation>", "object 1 has no <bndbox>"),
        (xml(size="<size><width>-3</width><height>30</height></size>"), "width -3"),
        (xml(size="<size><width>4.5</width><height>30</height></size>"), "width 4.5"),
        ("<html/>", "should be <annotation>"),
        ("<annotation>", "cannot be read as XML"),
        ("", "cannot be read as XML"),
        ("<?xml version='1.0' encoding='klingon'?><annotation/>", "cannot be read as XML"),
    ],
)
def test_a_wrong_annotation_names_file_value_and_rule(root, annotation, named):
    add(root, "two", annotation)
    message = error_of(lambda: read_voc(root, "train"))
    assert str(root / "Annotations/two.xml") in message
    assert named in message


def test_missing_files_are_named(root):
    assert "not a folder" in error_of(lambda: read_voc(root / "nowhere", "train"))
    assert "holds no Annotations" in error_of(lambda: read_voc(root / "JPEGImages", "train"))
    message = error_of(lambda: read_voc(root, "trian"))
    assert str(root / "ImageSets/Main/trian.txt") in message
    assert "nearest is 'train'" in message
    (root / "JPEGImages/one.jpg").rename(root / "kept.jpg")
    message = error_of(lambda: read_voc(root, "train"))
    assert str(root / "JPEGImages/one.jpg") in message
    assert "train.txt line 1" in message
    (root / "kept.jpg").rename(root / "JPEGImages/one.jpg")
    (root / "Annotations/one.xml").unlink()
    assert str(root / "Annotations/one.xml") in error_of(lambda: read_voc(root, "train"))
    (root / "ImageSets/Main/train.txt").write_text("\n")
    assert "names no image" in error_of(lambda: read_voc(root, "train"))


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "a/../../b", "a\x07b"])
def test_a_list_cannot_lead_out_of_the_folder(root, name):
    """../, absolute paths and control characters in a list are refused with their line."""
    (root / "ImageSets/Main/train.txt").write_text(f"one\n{name}\n")
    message = error_of(lambda: read_voc(root, "train"))
    assert "train.txt line 2" in message
    assert "inside the folder" in message


BOMB = "".join(f'<!ENTITY l{n + 1} "{f"&l{n};" * 10}">' for n in range(9))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize(
    "inside",
    [f'[<!ENTITY l0 "lol">{BOMB}]', '[<!ENTITY l9 SYSTEM "file:///etc/passwd">]', 'SYSTEM "file:///etc/passwd"'],
)
def test_entities_are_refused_before_they_expand(root, inside, encoding):
    """The billion-laughs attack, in several encodings."""
    text = f"<!DOCTYPE annotation {inside}><annotation><folder>&l9;</folder></annotation>"
    add(root, "two", "")
    (root / "Annotations/two.xml").write_bytes(text.encode(encoding))
    message = error_of(lambda: read_voc(root, "train"))
    assert "two.xml" in message
    assert "DOCTYPE" in message


def test_an_annotation_of_gigabytes_is_refused_unread(root):
    add(root, "two", "")
    with open(root / "Annotations/two.xml", "wb") as file:
        file.truncate(2**34)
    assert "larger than 16 MiB" in error_of(lambda: read_voc(root, "train"))


def test_mutated_voc_files_are_read_or_refused_in_one_line(root):
    """500 random edits of XML and lists give finite boxes or one line, and no other exception."""
    rng = random.Random(0)
    whole = xml(("cat", 1, 1, 40, 30), ("dog", 3, 4, 5, 6, 1)).encode()
    pieces = [b"<", b">", b"&", b"&#0;", b"\x00", b"\xff", b"-", b"9" * 400, b"1e999", b"<object>", b"]]>", b"\n"]
    outcomes, messages = {"read": 0, "refused": 0}, []
    for turn in range(500):
        path, content = root / "Annotations/one.xml", bytearray(whole)
        if turn % 7 == 0:
            path, content = root / "ImageSets/Main/train.txt", bytearray(b"one\n\n\n\n\n")
        for _ in range(rng.choice((1, 1, 2))):
            start = rng.randrange(len(content))
            content[start : start + rng.choice((0, 1, 1, 8))] = rng.choice(
                (rng.choice(pieces), b"%d" % rng.randrange(50), bytes([rng.randrange(256)]))
            )
        kept = path.read_bytes()
        path.write_bytes(content)
        try:
            data = read_voc(root, "train")
            assert np.isfinite(data.boxes).all()
            outcomes["read"] += 1
        except ValueError as error:
            outcomes["refused"] += 1
            messages.append(str(error))
        path.write_bytes(kept)
    assert min(outcomes.values()) > 10
    assert [message for message in messages if not re.fullmatch(r"[^\n]{10,3000}", message)] == []


def test_a_classes_txt_of_segmentation_serves_detection_too(root):
    """Numbers are left out, and so is the background, which no box has."""
    (root / "classes.txt").write_text("0 background\n2 dog\n1 cat\n")
    assert list(read_voc(root, "train").classes) == ["cat", "dog"]
