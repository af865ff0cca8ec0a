"""COCO's boxes: what is read, against pycocotools, and what is said about files that are not right."""

import json
import random
import re

import numpy as np
import pytest
from locations import SHARED
from PIL import Image
from pycocotools.coco import COCO

from dcnlab.data.detection.coco import read_coco
from dcnlab.data.detection.voc import read_voc
from dcnlab.metrics.boxes import Detections, GroundTruth

SHARED = SHARED / "data"
REAL = SHARED / "coco_real"


def content():
    """Two images of 40 x 30 pixels, three boxes, two categories whose ids have a gap and no order."""
    return {
        "images": [
            {"id": 70, "file_name": "a.jpg", "height": 30, "width": 40},
            {"id": 7, "file_name": "deep/b.jpg", "height": 30, "width": 40},
        ],
        "categories": [{"id": 9, "name": "dog"}, {"id": 4, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 9, "bbox": [1, 2, 3, 4.5], "area": 9.25, "iscrowd": 0},
            {"id": 2, "image_id": 70, "category_id": 4, "bbox": [0, 0, 40, 30], "area": 99, "iscrowd": 1},
            {"id": 3, "image_id": 7, "category_id": 4, "bbox": [10, 10, 5, 5], "segmentation": {"counts": []}},
        ],
    }


def write(root, said):
    """Write the annotations of split `train`."""
    (root / "annotations/instances_train.json").write_text(json.dumps(said))


@pytest.fixture
def root(tmp_path):
    """A folder in COCO's layout."""
    for name in ("annotations", "train/deep"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("a.jpg", "deep/b.jpg"):
        Image.new("RGB", (40, 30)).save(tmp_path / "train" / name)
    write(tmp_path, content())
    return tmp_path


def error_of(make):
    """The error's text, which is one line."""
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z") as caught:
        make()
    return str(caught.value)


def test_a_hand_made_coco_file_is_read_exactly(root):
    """Classes are ordered by category id, images by their order in the file."""
    data = read_coco(root, "train")
    assert data.classes == ("cat", "dog")  # by id: 4, 9
    assert data.category_ids.tolist() == [4, 9]
    assert [str(name) for name in data.files] == ["train/a.jpg", "train/deep/b.jpg"]
    assert data.image_ids.tolist() == [70, 7]
    assert data.offsets.tolist() == [0, 1, 3]
    assert data.boxes.tolist() == [[0, 0, 40, 30], [1, 2, 4, 6.5], [10, 10, 15, 15]]
    assert data.labels.tolist() == [1, 2, 1]
    assert data.areas.tolist() == [99, 9.25, 25]
    assert data.trainable()[1].tolist() == [False, True, True]


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the coco_real folder beside the checkout")
@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_real_coco_files_equal_pycocotools_reading(split, capsys):
    """Images, boxes and labels of real COCO files equal those of pycocotools."""
    theirs = COCO(REAL / f"annotations/instances_{split}.json")
    ours = read_coco(REAL, split)
    assert sorted(ours.image_ids.tolist()) == sorted(theirs.getImgIds())
    assert len(ours.boxes) == len(theirs.getAnnIds())
    for index, number in enumerate(ours.image_ids.tolist()):
        assert (REAL / str(ours.files[index])).name == theirs.imgs[number]["file_name"]
        want = theirs.imgToAnns[number]
        mine = slice(*ours.offsets[index : index + 2])
        boxes = np.array([entry["bbox"] for entry in want]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        assert np.array_equal(ours.boxes[mine], boxes)
        names = [theirs.cats[entry["category_id"]]["name"] for entry in want]
        assert [ours.classes[label - 1] for label in ours.labels[mine]] == names
        assert ours.category_ids[ours.labels[mine] - 1].tolist() == [entry["category_id"] for entry in want]
        assert ours.crowd[mine].tolist() == [entry["iscrowd"] == 1 for entry in want]
        assert ours.areas[mine].tolist() == [entry["area"] for entry in want]
    assert ours.crowd.any()
    assert not ours.trainable()[1][ours.crowd].any()


@pytest.mark.parametrize("name", ["cards", "bccd"])
@pytest.mark.parametrize("split", ["train", "val", "trainval", "test"])
def test_voc_and_coco_forms_of_a_data_set_are_equal(name, split):
    """cards and bccd exist in both forms; files, sizes, boxes and flags must agree."""
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"needs the {name} folder beside the checkout")
    voc, coco = read_voc(folder, split), read_coco(folder, split, images="JPEGImages")
    assert voc.classes == coco.classes
    for field in ("files", "sizes", "offsets", "boxes", "labels", "areas", "difficult", "crowd"):
        assert np.array_equal(getattr(voc, field), getattr(coco, field)), field


def test_chosen_coco_classes_are_numbered_in_the_given_order(root):
    """Boxes of other classes are left out; an unknown or repeated class is named."""
    data = read_coco(root, "train", classes=["dog", "cat"])
    assert data.labels.tolist() == [2, 1, 2]
    assert data.category_ids.tolist() == [9, 4]
    data = read_coco(root, "train", classes=["dog"])
    assert (data.labels.tolist(), data.offsets.tolist()) == ([1], [0, 0, 1])
    assert "nearest is 'dog'" in error_of(lambda: read_coco(root, "train", classes=["dogs"]))
    assert "'dog' twice" in error_of(lambda: read_coco(root, "train", classes=["dog", "dog"]))


def test_joined_splits_and_path_templates_work(root):
    """Splits whose categories differ are refused."""
    (root / "boxes.train.json").write_text(json.dumps(content()))
    (root / "train").rename(root / "pictures")
    data = read_coco(root, ["train", "train"], annotations="boxes.{split}.json", images="pictures")
    assert data.offsets.tolist() == [0, 1, 3, 4, 6]
    assert data.files[3] == "pictures/deep/b.jpg"
    said = content()
    said["categories"][0]["name"] = "wolf"
    write(root, said)
    (root / "annotations/instances_val.json").write_text(json.dumps(content()))
    assert "other categories" in error_of(lambda: read_coco(root, ["train", "val"], images="pictures"))


def test_empty_boxes_are_scored_but_not_trained(root):
    """Boxes of no width are left out of training, and boxes beyond the image are cut."""
    said = content()
    said["annotations"][0]["bbox"] = [1, 2, 0, 4]
    said["annotations"][2]["bbox"] = [38, 28, 5, 5]
    write(root, said)
    data = read_coco(root, "train")
    boxes, chosen = data.trainable()
    assert chosen.tolist() == [False, False, True]
    assert boxes[2].tolist() == [38, 28, 40, 30]  # cut to the image
    assert GroundTruth.of_annotations(data).boxes.tolist()[1:] == [[1, 2, 0, 4], [38, 28, 5, 5]]


WRONG = [
    (("annotations", 0, "bbox", [1, 2, -3, 4]), "annotation 1 has the bbox [1, 2, -3, 4]"),
    (("annotations", 1, "bbox", [1, 2, float("nan"), 4]), "annotation 2 has the bbox [1, 2, nan, 4]"),
    (("annotations", 1, "bbox", [float("inf"), 2, 3, 4]), "annotation 2 has the bbox"),
    (("annotations", 1, "bbox", [1, 2, 3]), "four finite numbers"),
    (("annotations", 1, "bbox", ["1", 2, 3, 4]), "four finite numbers"),
    (("annotations", 1, "bbox", [10**400, 2, 3, 4]), "four finite numbers"),
    (("annotations", 1, "bbox", None), "four finite numbers"),
    (("annotations", 1, "area", "big"), "area 'big'"),
    (("annotations", 1, "iscrowd", 2), "iscrowd 2; it must be 0 or 1"),
    (
        ("annotations", 1, "category_id", 5),
        "annotation 2 has the category_id 5, which no category has; nearest: 4",
    ),
    (("annotations", 1, "category_id", [4]), "annotation 2 has the category_id [4]"),
    (("annotations", 1, "image_id", 71), "image_id 71, which no image has; nearest: 70"),
    (("categories", 0, "name", "cat"), "category 4 has the name 'cat', which another has too"),
    (("categories", 0, "id", 4), "category 4 is there twice"),
    (("categories", 0, "name", 3), "category 9 has the name 3"),
    (("images", 0, "id", 7), "image 7 is there twice"),
    (("images", 0, "id", None), "image 0, counted from 0, has the id null"),
    (("images", 0, "file_name", "c.jpg"), "c.jpg, which"),
    (("images", 0, "file_name", "../a.jpg"), "'../a.jpg'; it must be a relative path that stays inside"),
    (("images", 0, "file_name", "/etc/passwd"), "inside the folder"),
    (("images", 0, "file_name", "a\nb.jpg"), "inside the folder"),
    (("images", 0, "file_name", "\ud800.jpg"), "inside the folder"),
    (("images", 0, "height", 0), "height 0 and width 40"),
    (("images", 0, "width", "40"), "width '40'"),
]


@pytest.mark.parametrize(("change", "named"), WRONG)
def test_a_wrong_entry_names_file_id_value_and_rule(root, change, named):
    said = content()
    part, index, key, value = change
    said[part][index][key] = value
    write(root, said)
    message = error_of(lambda: read_coco(root, "train"))
    assert "instances_train.json" in message
    assert named in message


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "3", '{"images": 3}', "[" * 100_000, '{"images": [], "categories": []}']
)
def test_json_of_another_form_is_one_line(root, text):
    """Empty files, lists, cut JSON and deep nesting name the annotation file."""
    (root / "annotations/instances_train.json").write_text(text)
    assert "instances_train.json" in error_of(lambda: read_coco(root, "train"))


def test_missing_files_are_named(root):
    assert "not a folder" in error_of(lambda: read_coco(root / "nowhere", "train"))
    message = error_of(lambda: read_coco(root, "val", images="train"))
    assert str(root / "annotations/instances_val.json") in message
    assert "data.images" in error_of(lambda: read_coco(root, "train", images="photos"))
    message = error_of(lambda: read_coco(root, "train", images=str(root.resolve() / "train")))
    assert "data.images" in message
    assert "relative" in message
    (root / "train").rename(root / "elsewhere")
    assert "train or images/train or images or JPEGImages" in error_of(lambda: read_coco(root, "train"))


def test_mutated_coco_files_are_read_or_refused_in_one_line(root):
    """1000 random edits must raise no other exception."""
    rng = random.Random(0)
    path = root / "annotations/instances_train.json"
    whole = path.read_bytes()
    pieces = [b"{", b"]", b",", b'"', b"\\", b"\\ud800", b"null", b"NaN", b"-", b"\xff", b"9" * 400, b"1e999", b"\n"]
    read, messages = 0, []
    for _ in range(1000):
        text = bytearray(whole)
        for _ in range(rng.choice((1, 1, 2))):
            start = rng.randrange(len(text))
            piece = rng.choice((rng.choice(pieces), b"%d" % rng.randrange(50), bytes([rng.randrange(256)])))
            text[start : start + rng.choice((0, 1, 1, 8))] = piece
        path.write_bytes(text)
        try:
            data = read_coco(root, "train")
            assert np.isfinite(data.boxes).all()
            read += 1
        except ValueError as error:
            messages.append(str(error))
    assert min(read, len(messages)) > 20
    assert [message for message in messages if not re.fullmatch(r"[^\n]{10,2000}", message)] == []


@pytest.mark.parametrize(
    ("images", "categories"),
    [(["frame-0", "frame-1"], ["k", "d"]), ([1.5, 2.25], [3.5, 1]), ([7, "frame"], [2**40, -1]), ([2**62, 3], [1, 2])],
)
def test_ids_of_any_type_are_kept_as_pycocotools_does(root, images, categories):
    """Texts, fractions and large numbers as ids return with their type in the detections."""
    said = content()
    renamed = {70: images[0], 7: images[1], 9: categories[0], 4: categories[1]}
    for entry in (*said["images"], *said["categories"]):
        entry["id"] = renamed[entry["id"]]
    for entry in said["annotations"]:
        entry["image_id"], entry["category_id"] = renamed[entry["image_id"]], renamed[entry["category_id"]]
    write(root, said)
    data = read_coco(root, "train")
    theirs = COCO(str(root / "annotations/instances_train.json"))
    position = data.image_ids.tolist().index(images[1])
    assert data.offsets[position + 1] - data.offsets[position] == len(theirs.imgToAnns[images[1]]) == 2
    dog = np.array([data.classes.index("dog")])
    detections = Detections(np.array([position]), dog, np.array([[0.0, 0, 1, 1]]), np.ones(1))
    (named,) = data.own_names(detections)
    result = {"image_id": images[1], "category_id": categories[0], "bbox": [0, 0, 1, 1], "score": 1.0}
    assert json.loads(json.dumps(named)) == result
    assert type(named["image_id"]) is type(images[1])
    assert type(named["category_id"]) is type(categories[0])


@pytest.mark.parametrize("part", ["images", "categories"])
@pytest.mark.parametrize(("one", "other"), [(1, "1"), ("1.5", 1.5), (1.0, "1")])
def test_ids_that_differ_in_type_only_are_refused(root, part, one, other):
    """1 and "1" would both be "1" in a JSON of detections."""
    said = content()
    said[part][0]["id"], said[part][1]["id"] = one, other
    message = error_of(lambda: (write(root, {**said, "annotations": []}), read_coco(root, "train")))
    assert "differ in type only" in message


@pytest.mark.parametrize("bad", [None, True, [1], float("nan"), 2**63, "\ud800", "x" * 1025])
def test_invalid_image_ids_are_refused(root, bad):
    """None, NaN, lists, lone surrogates and too large ids are named with their position."""
    said = content()
    said["images"][0]["id"] = bad
    write(root, said)
    assert "image 0, counted from 0, has the id" in error_of(lambda: read_coco(root, "train"))


def test_an_id_of_the_wrong_type_names_the_nearest(root):
    """The image_id '7' as text, where the image has the number 7, is refused with that hint."""
    said = content()
    said["annotations"][0]["image_id"] = "7"
    write(root, said)
    assert "image_id '7', which no image has; nearest: 7" in error_of(lambda: read_coco(root, "train"))


def test_a_test_file_without_annotations_has_no_boxes(root):
    """COCO's test files have images and categories only."""
    said = content()
    del said["annotations"]
    write(root, said)
    assert read_coco(root, "train").offsets.tolist() == [0, 0, 0]


def test_joined_splits_keep_ids_of_both_types(root):
    """One split has numbers, the other texts as image ids."""
    said = content()
    for number, entry in enumerate(said["images"]):
        entry["id"] = f"frame-{number}"
    (root / "annotations/instances_val.json").write_text(json.dumps({**said, "annotations": []}))
    (root / "val").symlink_to(root / "train")
    assert read_coco(root, ["train", "val"]).image_ids.tolist() == [70, 7, "frame-0", "frame-1"]
