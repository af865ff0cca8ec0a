"""`dcnlab score detection` on results with known figures, and on what users get wrong."""

import json
import shutil
from pathlib import Path

import pytest
from command_line import dcnlab
from locations import SHARED
from PIL import Image

from dcnlab import score
from dcnlab.io.errors import ConfigError

DATA = SHARED / "data"
TWELVE = {
    **{"ap": "AP", "ap50": "AP50", "ap75": "AP75", "ap_small": "APs", "ap_medium": "APm", "ap_large": "APl"},
    **{"ar1": "AR1", "ar10": "AR10", "ar100": "AR100", "ar_small": "ARs", "ar_medium": "ARm", "ar_large": "ARl"},
}

XML = """<annotation><size><width>100</width><height>80</height></size>
<object><name>cat</name><difficult>0</difficult>
<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>10</xmax><ymax>10</ymax></bndbox></object>
<object><name>dog</name><difficult>1</difficult>
<bndbox><xmin>31</xmin><ymin>1</ymin><xmax>40</xmax><ymax>10</ymax></bndbox></object></annotation>"""
RIGHT = {"image_id": "000.5", "category": "cat", "bbox": [0, 0, 10, 10], "score": 0.9}
COCO = {
    "images": [{"id": 5, "file_name": "000.5.jpg", "width": 100, "height": 80}],
    "categories": [{"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}],
    "annotations": [{"id": 1, "image_id": 5, "category_id": 17, "bbox": [0, 0, 10, 10], "area": 100, "iscrowd": 0}],
}


@pytest.fixture
def voc(tmp_path):
    """A VOC folder of one image, a cat and a difficult dog; there are no photographs."""
    root = tmp_path / "voc"
    (root / "Annotations").mkdir(parents=True)
    (root / "ImageSets/Main").mkdir(parents=True)
    (root / "Annotations/000.5.xml").write_text(XML)
    (root / "ImageSets/Main/test.txt").write_text("000.5\n")
    return root


@pytest.fixture
def coco(tmp_path):
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(COCO))
    return path


def results(tmp_path, entries):
    path = tmp_path / "D.json"
    path.write_text(entries if isinstance(entries, str) else json.dumps(entries))
    return path


def there(name):
    if not (DATA / name).exists():
        pytest.skip(f"../shared/data/{name} is not there")
    return DATA / name


@pytest.mark.parametrize("backend", ["faster", "pycocotools"])
def test_coco_scores_equal_the_published_twelve(backend):
    """COCO's example detections give the twelve published metrics in both backends."""
    folder = there("eval_oracles/coco_bbox100")
    files = ["--detections", folder / "detections.json", "--annotations", folder / "instances_gt.json"]
    done = dcnlab("score", "detection", *files, "--protocol", "coco", "--backend", backend, "--format", "json")
    assert done.returncode == 0, done.stderr
    scores, expected = json.loads(done.stdout), json.loads((folder / "expected.json").read_text())
    for ours, theirs in TWELVE.items():
        assert scores[ours] / 100 == pytest.approx(expected["published"][theirs], abs=1e-6)
    for name, ap in expected["per_class_AP_pycocotools"].items():
        assert scores[f"ap/{name}"] / 100 == pytest.approx(ap, abs=1e-9)


@pytest.mark.parametrize(("protocol", "key"), [("voc07", "AP_11pt"), ("voc", "AP_allpt")])
def test_published_voc_values_come_from_a_voc_folder(tmp_path, protocol, key):
    """Boxes of the toy example in VOC's XML give the published AP."""
    folder = there("eval_oracles/voc_toy_cat")
    shutil.copytree(folder / "Annotations", tmp_path / "voc/Annotations")
    entries = []
    for path in sorted((folder / "detections_class_score_x1y1x2y2").glob("*.txt")):
        for line in path.read_text().splitlines():
            name, certainty, *corners = line.split()
            x1, y1, x2, y2 = map(int, corners)
            box = [x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1]
            entries.append({"image_id": path.stem, "category": name, "bbox": box, "score": float(certainty)})
    scores = score.detection(results(tmp_path, entries), tmp_path / "voc", protocol)
    published = json.loads((folder / "expected.json").read_text())["published"]
    for iou, name in (("0.5", "ap50"), ("0.75", "ap75")):
        assert scores[name] / 100 == pytest.approx(published[iou][key], abs=1e-4)
        assert scores[f"{name}/cat"] == scores[name]


def moved_cards():
    """The boxes of some real photographs, moved a little, by COCO's numbers and by VOC's names."""
    root = there("cards")
    content = json.loads((root / "annotations/instances_val.json").read_text())
    stems = {image["id"]: Path(image["file_name"]).stem for image in content["images"]}
    names = {category["id"]: category["name"] for category in content["categories"]}
    entries = []
    for number, entry in enumerate(content["annotations"]):
        x, y, width, height = entry["bbox"]
        bbox = [x + number % 7, y, width, height - number % 5]
        ids = {"image_id": entry["image_id"], "category_id": entry["category_id"]}
        entries.append({**ids, "bbox": bbox, "score": 1 / (1 + number % 11)})
    by_name = [
        {**entry, "image_id": stems[entry["image_id"]], "category": names[entry["category_id"]]} for entry in entries
    ]
    return entries, by_name, root


def test_cards_score_the_same_as_voc_and_as_coco(tmp_path):
    """The same detections, named by number or by file, give equal metrics."""
    entries, by_name, root = moved_cards()
    for protocol in ("coco", "voc07"):
        as_coco = score.detection(results(tmp_path, entries), root / "annotations/instances_val.json", protocol)
        as_voc = score.detection(results(tmp_path, by_name), root, protocol, split="val")
        assert as_voc == pytest.approx(as_coco, nan_ok=True)


@pytest.mark.parametrize("protocol", ["coco", "voc07", "voc"])
def test_detections_on_difficult_objects_do_not_count(voc, tmp_path, protocol):
    """A perfect detection keeps AP 100 next to a higher-scored one on a difficult object."""
    on_dog = {**RIGHT, "category": "dog", "bbox": [30, 0, 10, 10], "score": 0.99}
    scores = score.detection(results(tmp_path, [on_dog, RIGHT]), voc, protocol, split="test")
    assert scores["ap50"] == pytest.approx(100)
    assert scores["ap50/cat" if "ap50/cat" in scores else "ap/cat"] == pytest.approx(100)


@pytest.mark.parametrize(("number", "category"), [(5, 17), ("5", 17), ("5", "17")])
@pytest.mark.parametrize("protocol", ["coco", "voc07", "voc"])
def test_ids_of_coco_may_be_numbers_or_text(coco, tmp_path, number, category, protocol):
    entry = {"image_id": number, "category_id": category, "bbox": [0, 0, 10, 10], "score": 0.9}
    assert score.detection(results(tmp_path, [entry]), coco, protocol)["ap50"] == pytest.approx(100)


def test_no_detections_at_all_are_zero_percent(coco, voc, tmp_path):
    for protocol in ("coco", "voc"):
        for annotations in (coco, voc):
            assert score.detection(results(tmp_path, []), annotations, protocol)["ap50"] == 0


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ("{", "D.json is not JSON"),
        ("{}", "D.json holds no list"),
        ([{**RIGHT, "image_id": "000.6"}], "entry 0, .* has the image_id '000.6', .*nearest: '000.5'"),
        ([RIGHT, {**RIGHT, "category": "cart"}], "D.json: entry 1, .* has the category 'cart', .*nearest: 'cat'"),
        ([RIGHT, {**RIGHT, "bbox": [9, 9, -1, 5]}], r"entry 1, .* has the bbox \[9, 9, -1, 5\]; .*not be negative"),
        ([{**RIGHT, "score": "0.9"}], "entry 0, .* has the score '0.9'; it must be a finite number"),
        ([{"image_id": "000.5", "category": "cat", "score": 1}], "entry 0, .* has no bbox"),
        ([{"image_id": "000.5", "category_id": 8, "bbox": [0] * 4, "score": 1}], "category is the class's name"),
        ([7], "entry 0, .* is 7; it must be an object"),
    ],
)
def test_a_wrong_detections_file_names_entry_and_value(voc, tmp_path, entries, words):
    """Broken JSON, unknown images and classes, negative boxes and texts as scores give one line."""
    with pytest.raises(ConfigError, match=words) as error:
        score.detection(results(tmp_path, entries), voc, "voc")
    assert "\n" not in str(error.value)


def test_options_that_do_not_fit_are_refused(voc, coco, tmp_path):
    file = results(tmp_path, [RIGHT])
    for arguments, words in (
        ((file, voc, "voc12"), "--protocol is 'voc12'; nearest: voc"),
        ((file, coco, "coco", "val"), "--split val goes with a VOC folder"),
        ((file, voc, "voc", "tets"), "test"),
        ((file, tmp_path / "no.json", "coco"), "no.json cannot be read"),
        ((tmp_path / "no.json", voc, "voc"), "no.json cannot be read"),
        ((file, voc, "coco", None, "slow"), "--backend is 'slow'"),
        ((file, voc, "voc", None, "faster", tmp_path / "pr.xyz"), r"--figure .*pr.xyz must end in one of \.png"),
    ):
        with pytest.raises(ConfigError, match=words):
            score.detection(*arguments)


def test_a_wrong_entry_is_exit_status_2_and_one_line(voc, tmp_path):
    file = results(tmp_path, [{**RIGHT, "score": None}])
    done = dcnlab("score", "detection", "--detections", file, "--annotations", voc, "--protocol", "voc")
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "D.json: entry 0, counted from 0, has the score null" in done.stderr


@pytest.mark.parametrize("name", ["pr.png", "new/pr.svg"])
def test_the_precision_recall_plot_names_each_class_and_ap(voc, tmp_path, name):
    """PNG and SVG are written, a missing folder is made."""
    score.detection(results(tmp_path, [RIGHT]), voc, "voc07", figure=tmp_path / name)
    if name.endswith("png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.width > 500
    else:
        assert "cat 100.0" in (tmp_path / name).read_text()


def test_a_plot_of_many_classes_shows_the_ten_largest(coco, tmp_path):
    """The title says that 10 of 12 are shown, and a class named $x_1$ is drawn as text."""
    names = ["$x_1$", *(f"class {number}" for number in range(11))]
    annotation = COCO["annotations"][0]
    content = {
        **COCO,
        "categories": [{"id": number, "name": name} for number, name in enumerate(names)],
        "annotations": [{**annotation, "category_id": number} for number in range(12) for _ in range(12 - number)],
    }
    coco.write_text(json.dumps(content))
    score.detection(results(tmp_path, []), coco, "coco", figure=tmp_path / "pr.svg")
    drawn = (tmp_path / "pr.svg").read_text()
    assert "10 of 12 classes: those with most objects" in drawn
    assert "class 8 0.0" in drawn
    assert "class 9 " not in drawn
    assert "$x_1$ 0.0" in drawn
