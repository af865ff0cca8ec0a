"""Folders as other people leave them are recognised, and split alike in every run."""

import hashlib
import json
import pathlib
import shutil

import own_folders
import pytest
from PIL import Image

from dcnlab.data.detection.data_module import DetectionDataModule
from dcnlab.data.own.classification import own_class_folders
from dcnlab.data.own.detection import own_boxes
from dcnlab.data.own.segmentation import own_labels
from dcnlab.data.own.splits import by_role, hold_out
from dcnlab.io.errors import DataError
from dcnlab.io.image_file import read_image


def boxes(root, layout=None, classes=None):
    return own_boxes(root, classes, layout, "auto")


def files(own):
    return {split: set(part.files.tolist()) for split, part in own.splits.items()}


ONE_BOX = {"coco": own_folders.coco, "voc": own_folders.voc, "yolo": own_folders.yolo}


@pytest.mark.parametrize("layout", ONE_BOX)
def test_a_folder_without_splits_is_cut_by_file_names(tmp_path, layout):
    """Of twenty images 4 test, 2 validate and 14 train: those of the lowest hashes test, the next ones validate."""
    own = boxes(ONE_BOX[layout](tmp_path))
    folder = "JPEGImages" if layout == "voc" else "images"
    names = [f"{folder}/photo{number}.png" for number in range(20)]
    order = sorted(names, key=lambda name: hashlib.blake2b(name.encode(), digest_size=8).digest())
    assert files(own) == {"test": set(order[:4]), "val": set(order[4:6]), "train": set(order[6:])}
    assert own.layout == layout
    assert "20% test, 10% val held out of all images by a hash of the file names" in own.line


@pytest.mark.parametrize("layout", ONE_BOX)
def test_boxes_are_the_same_in_every_form(tmp_path, layout):
    """The object of photo3, a box at (3, 16) of side 16, is read as that from VOC, COCO and YOLO."""
    for part in boxes(ONE_BOX[layout](tmp_path)).splits.values():
        for at, file in enumerate(part.files.tolist()):
            if file.endswith("photo3.png"):
                box = part.offsets[at]
                assert part.boxes[box].tolist() == pytest.approx([3, 16, 19, 32])
                assert part.classes[part.labels[box] - 1] == "box"
                assert part.sizes[at].tolist() == [48, 48]
                return
    raise AssertionError("photo3 is in no split")


def test_classes_are_those_of_the_files(tmp_path):
    """classes.txt gives names and order; without it the XML does, and data.yaml for YOLO."""
    assert boxes(own_folders.voc(tmp_path / "a")).splits["train"].classes == ("box", "ball")
    assert boxes(own_folders.voc(tmp_path / "b", classes=False)).splits["train"].classes == ("ball", "box")
    named = own_folders.yolo(tmp_path / "c", yaml="names: {0: ball, 1: box, 2: cone}\nnc: 3\n")
    assert boxes(named).splits["train"].classes == ("ball", "box", "cone")


def test_exports_with_split_folders_are_taken_as_they_are(tmp_path):
    """Roboflow's train, valid and test are the splits, and its category of number 0 without boxes is no class."""
    extra = ({"id": 0, "name": "things"},)
    for split, count in (("train", 6), ("valid", 4), ("test", 2)):
        own_folders.coco(tmp_path / split, count, "_annotations.coco.json", ".", extra=extra)
    own = boxes(tmp_path)
    assert {name: len(part) for name, part in own.splits.items()} == {"train": 6, "val": 4, "test": 2}
    assert own.splits["test"].classes == ("ball", "box")
    assert "val is valid" in own.line


@pytest.mark.parametrize(("images", "labels"), [("images/{}", "labels/{}"), ("{}/images", "{}/labels")])
def test_both_trees_of_yolo_are_recognised(tmp_path, images, labels):
    """images/train next to labels/train, and train/images next to train/labels; without test, val is tested."""
    for split, count in (("train", 6), ("val", 4)):
        own_folders.yolo(tmp_path, count, images.format(split), labels.format(split))
    own = boxes(tmp_path)
    assert {name: len(part) for name, part in own.splits.items()} == {"train": 6, "val": 4, "test": 4}
    assert "without a test split: val is scored as test too" in own.line


def test_a_polygon_of_yolo_becomes_the_box_around_it(tmp_path):
    """Of the corners (12, 6), (36, 6), (24, 42) the box is 12, 6, 36, 42."""
    own_folders.yolo(tmp_path, 20)
    for path in (tmp_path / "labels").glob("*.txt"):
        path.write_text("1 0.25 0.125 0.75 0.125 0.5 0.875\n")
    assert boxes(tmp_path).splits["test"].boxes[0].tolist() == [12, 6, 36, 42]


def test_wrong_lines_of_yolo_are_named(tmp_path):
    """Pixels in place of fractions, and a class without a name, are refused with file and line."""
    own_folders.yolo(tmp_path)
    label = tmp_path / "labels" / "photo7.txt"
    for line, reason in (("0 20 20 5 5", "fractions of the image"), ("2 .5 .5 .1 .1", "there are 2 names")):
        label.write_text(f"0 .5 .5 .1 .1\n{line}\n")
        with pytest.raises(DataError, match=rf"photo7.txt line 2 .*{reason}"):
            boxes(tmp_path)


def test_a_layout_can_be_chosen_where_two_fit(tmp_path):
    """Of VOC and COCO in one folder VOC is taken, and the line says how to take the other."""
    own_folders.coco(own_folders.voc(tmp_path), 20, "annotations/instances_default.json", "JPEGImages")
    assert boxes(tmp_path).layout == "voc"
    assert "it also has coco: data.layout=coco takes it" in boxes(tmp_path).line
    assert boxes(tmp_path, "coco").layout == "coco"
    with pytest.raises(DataError, match=r"data.layout is 'yolo'.*it has voc, coco"):
        boxes(tmp_path, "yolo")


def test_an_unknown_folder_says_what_was_looked_for(tmp_path):
    """One line names the layouts, and the nearest: another task, an inner folder, or the content."""
    own_folders.class_folders(tmp_path / "flowers")
    with pytest.raises(DataError, match=r"voc: XML.*coco: JSON.*yolo: images.*classification/own") as error:
        boxes(tmp_path / "flowers")
    assert "\n" not in str(error.value)
    own_folders.voc(tmp_path / "outer" / "inner")
    with pytest.raises(DataError, match=r"nearest: .*outer/inner, which has voc"):
        boxes(tmp_path / "outer")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "notes.md").write_text("")
    with pytest.raises(DataError, match=r"it holds notes.md"):
        boxes(tmp_path / "text")


def test_class_folders_are_cut_class_by_class(tmp_path):
    """Ten images of each of two classes: two of each test, one of each validates, seven train."""
    own = own_class_folders(own_folders.class_folders(tmp_path), None, None)
    counts = {split: [[label for _, label in part[0]].count(k) for k in (0, 1)] for split, part in own.splits.items()}
    assert counts == {"train": [7, 7], "val": [1, 1], "test": [2, 2]}
    assert own.splits["train"][1] == ["ball", "box"]


def test_splits_of_class_folders_are_taken(tmp_path):
    """train and valid over the class folders are splits, not classes."""
    own_folders.class_folders(tmp_path / "train")
    own_folders.class_folders(tmp_path / "valid", 6)
    own = own_class_folders(tmp_path, None, None)
    assert {split: len(part[0]) for split, part in own.splits.items()} == {"train": 20, "val": 6, "test": 6}


@pytest.mark.parametrize(
    ("values", "classes", "labels"),
    [
        ((0, 255), ["background", "foreground"], {0: 0, 255: 1}),
        ((3, 7, 255), ["3", "7"], {3: 0, 7: 1, 255: 255}),
    ],
)
def test_classes_of_masks_are_their_values(tmp_path, values, classes, labels):
    """A mask of 0 and 255 has two classes; next to two other values, 255 is unknown."""
    own = own_labels(own_folders.masks(tmp_path, values=values, added="_mask"), None, None, None)
    train = own.splits["train"]
    assert train.classes == classes
    assert {value: int(train.lookup[value]) for value in labels} == labels
    assert all(label.name == f"{image.stem}_mask.png" for image, label in train.pairs)


def test_classes_txt_names_the_masks_of_voc(tmp_path):
    """A folder of VOC's form with classes.txt of two lines has these two classes, and no list is needed."""
    own_folders.masks(tmp_path, images="JPEGImages", labels="SegmentationClass")
    (tmp_path / "classes.txt").write_text("floor\nthing\n")
    own = own_labels(tmp_path, None, None, None)
    assert (own.layout, own.splits["train"].classes) == ("voc", ["floor", "thing"])


def test_a_class_called_void_is_left_out(tmp_path):
    """Of floor, thing and void, pixels of the last have the label of unknown ones; data.ignore overrides that."""
    (own_folders.masks(tmp_path, values=(0, 1, 2)) / "classes.txt").write_text("floor\nthing\nvoid (ignore)\n")
    train = own_labels(tmp_path, None, None, None).splits["train"]
    assert (train.classes, train.lookup[:3].tolist()) == (["floor", "thing"], [0, 1, 255])
    assert len(own_labels(tmp_path, None, 255, None).splits["train"].classes) == 3


def test_a_new_image_moves_few_others(tmp_path):
    """With one image more, at most one image a split changes its place: a hash decides, not the position."""
    names = [f"{number}.png" for number in range(100)]
    fractions = {"test": 0.2, "val": 0.1}
    before = hold_out(names, fractions, tmp_path)
    after = hold_out(["00000.png", *names], fractions, tmp_path)
    for split in ("test", "val"):
        moved = {names[at] for at in before[split]} - {(["00000.png", *names])[at] for at in after[split]}
        assert len(moved) <= 1, split


def test_too_few_images_are_refused(tmp_path):
    """Two images make no three splits; the line names the folder and the number."""
    with pytest.raises(DataError, match=r"has 2 images; at least 3"):
        boxes(own_folders.voc(tmp_path, 2))


def test_names_of_splits_play_their_roles():
    """Usual names of exports are known, trainval trains only where nothing else does."""
    assert by_role(["train2017", "val2017"]) == {"train": "train2017", "val": "val2017"}
    assert by_role(["trainval", "train", "test"]) == {"train": "train", "test": "test"}
    assert by_role(["trainval", "test"]) == {"train": "trainval", "test": "test"}
    assert by_role(["valid", "train"]) == {"train": "train", "val": "valid"}


def test_a_moved_folder_is_cut_alike(tmp_path):
    """The cut depends on names below the root alone."""
    before = files(boxes(own_folders.coco(tmp_path / "here")))
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert files(boxes(tmp_path / "there")) == before


def test_images_of_a_json_are_found_where_exports_put_them(tmp_path):
    """Next to the JSON, in images/, in a folder of any name, and by a path in file_name."""
    for number, images in enumerate((".", "images", "pictures", "data")):
        root = own_folders.coco(tmp_path / str(number), 10, "labels.json", images)
        assert sum(len(part) for part in boxes(root).splits.values()) == 10
    content = json.loads((root / "labels.json").read_text())
    for image in content["images"]:
        image["file_name"] = f"data/{image['file_name']}"
    (root / "labels.json").write_text(json.dumps(content))
    assert len(boxes(root).splits["train"]) == 7


def object_lists(part):
    """The boxes of each image, by its file, as (class, x1, y1, x2, y2)."""
    rows = zip(part.labels.tolist(), part.boxes.tolist(), strict=True)
    objects = [(part.classes[label - 1], *box) for label, box in rows]
    bounds = part.offsets.tolist()
    return {file: objects[bounds[at] : bounds[at + 1]] for at, file in enumerate(part.files.tolist())}


def test_a_roboflow_export_is_read_without_conversion(tmp_path):
    """A data.yaml, train, valid and test, polygons, an empty and a missing label file, and names with dots."""
    for split in ("train", "valid", "test"):
        for number, ending in enumerate(("jpg", "JPG", "png", "webp")):
            own_folders.draw(tmp_path / split / "images" / f"a{number}_jpg.rf.12ab.{ending}", "ball")
        (tmp_path / split / "labels").mkdir()
        (tmp_path / split / "labels" / "a0_jpg.rf.12ab.txt").write_text("1 0.5 0.5 0.25 0.5\n0 0.25 0.25 0.5 0.5\n")
        (tmp_path / split / "labels" / "a1_jpg.rf.12ab.txt").write_text("0 0.25 0.5 0.5 0.5 0.5 0.75 0.25 0.75")
        (tmp_path / split / "labels" / "a2_jpg.rf.12ab.txt").write_text("")
    (tmp_path / "data.yaml").write_text(
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 2\nnames: ['ball', 'box']\n\n"
        "roboflow:\n  workspace: mine\n  version: 1\n"
    )
    data = DetectionDataModule("yolo", tmp_path)
    for part, folder in ((data.train, "train"), (data.val, "valid"), (data.test, "test")):
        assert object_lists(part.annotations) == {
            f"{folder}/images/a0_jpg.rf.12ab.jpg": [("box", 18, 12, 30, 36), ("ball", 0, 0, 24, 24)],
            f"{folder}/images/a1_jpg.rf.12ab.JPG": [("ball", 12, 24, 24, 36)],
            f"{folder}/images/a2_jpg.rf.12ab.png": [],
            f"{folder}/images/a3_jpg.rf.12ab.webp": [],
        }
    assert data.train[(0, 1)][0].shape[0] == 3


def test_an_ultralytics_folder_is_read_without_conversion(tmp_path):
    """images/train2017 next to labels/train2017, names by number with a gap, classes written as 2.0."""
    for split in ("train2017", "val2017"):
        own_folders.draw(tmp_path / "images" / split / "7.bmp", "box")
        (tmp_path / "labels" / split).mkdir(parents=True)
        (tmp_path / "labels" / split / "7.txt").write_text("2.0 0.5 0.5 0.25 0.25\n")
    (tmp_path / "args.yaml").write_text("epochs: 3\n")
    (tmp_path / "coco8.yaml").write_text("path: ../datasets/coco8\nnames:\n  0: ball\n  2: box\n")
    data = DetectionDataModule("yolo", tmp_path)
    assert data.classes == ["ball", "1", "box"]
    assert object_lists(data.train.annotations) == {"images/train2017/7.bmp": [("box", 18, 18, 30, 30)]}
    assert object_lists(data.test.annotations) == {"images/val2017/7.bmp": [("box", 18, 18, 30, 30)]}


def test_splits_of_data_yaml_are_taken_as_stated(tmp_path):
    """Folders of other names, several of a split, and lists of images are those that data.yaml states."""
    for name in ("images/first", "images/second", "images/held", "all"):
        own_folders.draw(tmp_path / name / "7.png", "box")
        label = tmp_path / name.replace("images", "labels") / "7.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text("0 0.5 0.5 0.25 0.25\n")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "test.txt").write_text(f"./images/held/7.png\n{tmp_path}/all/7.png\n")
    yaml = "path: ../datasets/mine\ntrain: [images/first, images/second]\nval: images/held\nnames: {0: box}\n"
    (tmp_path / "mine.yaml").write_text(f"{yaml}test: lists/test.txt\n")
    data = DetectionDataModule("yolo", tmp_path)
    box = [("box", 18, 18, 30, 30)]
    assert object_lists(data.train.annotations) == {"images/first/7.png": box, "images/second/7.png": box}
    assert object_lists(data.val.annotations) == {"images/held/7.png": box}
    assert object_lists(data.test.annotations) == {"images/held/7.png": box, "all/7.png": box}
    (tmp_path / "lists" / "test.txt").write_text("../images/../../secret.png\n")
    with pytest.raises(DataError, match=r"\A[^\n]*test.txt line 1 is [^\n]* the path of an image below[^\n]*\Z"):
        DetectionDataModule("yolo", tmp_path)


def test_a_data_yaml_that_tests_on_training_images_counts_not(tmp_path):
    """Small examples state the same folder for train and val: images are held out of it, as without data.yaml."""
    yaml = "train: images\nval: images\nnames: [ball, box]\n"
    stated = boxes(own_folders.yolo(tmp_path, 20, yaml=yaml)).splits
    assert [len(stated[role]) for role in ("train", "val", "test")] != [20, 20, 20]
    assert not set(stated["train"].files.tolist()) & set(stated["val"].files.tolist())


def test_keypoints_of_yolo_are_not_taken_for_corners(tmp_path):
    """Where data.yaml states kpt_shape, the first four numbers are the box, however many follow."""
    own_folders.yolo(tmp_path, 4, yaml="names: [ball, box]\nkpt_shape: [3, 2]\n")
    for path in (tmp_path / "labels").glob("*.txt"):
        path.write_text("1 0.5 0.5 0.25 0.25 0.0 0.0 1.0 1.0 0.5 0.5\n")
    assert boxes(tmp_path).splits["train"].boxes[0].tolist() == [18, 18, 30, 30]


def test_data_classes_names_the_numbers_of_a_folder_without_names(tmp_path):
    """Without data.yaml the labels are numbers: data.classes names them, and too few names are refused."""
    (own_folders.yolo(tmp_path, 4) / "data.yaml").unlink()
    assert boxes(tmp_path).splits["train"].classes == ("0", "1")
    named = boxes(tmp_path, classes=["ball", "box"]).splits
    assert sorted({name for part in named.values() for rows in object_lists(part).values() for name, *_ in rows}) == [
        "ball", "box"
    ]  # fmt: skip
    with pytest.raises(DataError, match=r"has the class 1; there are 1 names"):
        boxes(tmp_path, classes=["ball"])


def test_a_folder_without_yolos_form_names_the_nearest(tmp_path):
    """data.name yolo of VOC's folder, of a folder one too high and of bad names ends in one line."""
    own_folders.voc(tmp_path / "a")
    with pytest.raises(DataError, match=r"\Adata.name is 'yolo': [^\n]*it has voc\Z"):
        DetectionDataModule("yolo", tmp_path / "a")
    own_folders.yolo(tmp_path / "b" / "inner", 4)
    with pytest.raises(DataError, match=r"\Adata.name is 'yolo': [^\n]*nearest: [^\n]*b/inner, which has yolo\Z"):
        DetectionDataModule("yolo", tmp_path / "b")
    own_folders.yolo(tmp_path / "c", 4, yaml="names: {zero: ball}\n")
    with pytest.raises(DataError, match=r"data.yaml names has the key 'zero'; a class number is 0 to"):
        DetectionDataModule("yolo", tmp_path / "c")


ENDINGS = ("JPG", "jpeg", "Png", "webp", "BMP", "TIFF")


def named_anew(root):
    """Save each photograph of a folder in another format, in upper or lower case."""
    photographs = sorted(path for path in root.rglob("*.png") if path.parent.name != "masks")
    for path, ending in zip(photographs, ENDINGS, strict=True):
        Image.open(path).save(path.with_suffix(f".{ending}"))
        path.unlink()
    for path in root.glob("*.json"):
        content = json.loads(path.read_text())
        for image, ending in zip(content["images"], ENDINGS, strict=True):
            image["file_name"] = f"{image['file_name'].removesuffix('.png')}.{ending}"
        path.write_text(json.dumps(content))
    return root


def test_images_of_every_ending_are_read_in_every_layout(tmp_path):
    """Boxes in each form, masks and class folders find images of each ending, in either case."""
    found = {}
    for name, make in ONE_BOX.items():
        parts = boxes(named_anew(make(tmp_path / name, 6))).splits.values()
        found[name] = [tmp_path / name / file for part in parts for file in part.files.tolist()]
    masks = own_labels(named_anew(own_folders.masks(tmp_path / "masks", 6)), None, None, None)
    found["masks"] = [image for part in masks.splits.values() for image, _ in part.pairs]
    classes = own_class_folders(named_anew(own_folders.class_folders(tmp_path / "classes", 6)), None, None)
    found["classes"] = [file for part in classes.splits.values() for file, _ in part[0]]
    for name, paths in found.items():
        assert sorted(str(path).rpartition(".")[2] for path in paths) == sorted(ENDINGS), name
        assert {read_image(path).size for path in map(pathlib.Path, paths)} == {(48, 48)}, name
