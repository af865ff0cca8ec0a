"""Every reader of files takes what is broken, hostile or merely odd: it reads it, or refuses it in one line.

Fourteen thousand mutated files, the same ones in every run; DCNLAB_FUZZ=30 makes it thirty times as many, which differ.
No file takes a gibibyte or ten seconds.
"""

import csv
import io
import json
import os
import random
import resource
import signal
import time
import warnings
import zipfile
from contextlib import contextmanager
from pathlib import Path

import mutations
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save

from dcnlab import score
from dcnlab.ablations.sweeps import sweep_file
from dcnlab.ablations.sweeps.trial import trials_of
from dcnlab.ablations.tables import build_table, table
from dcnlab.ablations.tables.run_record import Record, records
from dcnlab.config import identity
from dcnlab.config.keys import all_keys
from dcnlab.config.load import load_experiment, load_run, to_yaml
from dcnlab.data.detection.coco import read_coco
from dcnlab.data.detection.split import DetectionSplit
from dcnlab.data.detection.voc import read_voc
from dcnlab.data.image_list import imagelist_pairs
from dcnlab.data.labels import read_label
from dcnlab.data.segmentation.camvid import camvid_pairs
from dcnlab.data.segmentation.voc import read_voc_label, voc_pairs
from dcnlab.io.errors import ConfigError, DataError
from dcnlab.io.image_file import read_image
from dcnlab.models import weights_file
from dcnlab.training import checkpoint_file
from dcnlab.training.loggers.metrics_csv import MetricsFile
from dcnlab.training.run_folder import RunFolder

TIMES = float(os.environ.get("DCNLAB_FUZZ", "1"))
LONGEST = 3000
"""Characters of a message."""
PATIENCE = 10
"""Seconds of the processor for one file, which takes milliseconds; by the clock sixty times as many."""


class Hung(BaseException):
    """A reader took too long; nothing that catches exceptions takes this one."""


@contextmanager
def in_time():
    """Interrupt what hangs."""

    def stop(number, frame):
        raise Hung

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 60 * PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def in_a_gibibyte():
    """Refuse this process more than a gibibyte of address space beyond what it has."""
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (mapped + 2**30, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def fuzz(count, mutate, read, least=20):
    """Read `count` mutated files.

    Args:
        count: of files.
        mutate: takes random numbers and writes a file.
        read: reads it; a ValueError of one line is a refusal.
        least: files that are to be read, and that are to be refused, or the mutations are of no use.
    """
    accepted, refused, wrong = 0, 0, []
    for turn in range(round(count * TIMES)):
        mutate(random.Random(turn))
        started = time.process_time()
        try:
            with in_time(), in_a_gibibyte(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read()
            accepted += 1
        except (ValueError, Hung) as error:
            refused += 1
            said = str(error)
            if (
                type(error) not in (ValueError, DataError, ConfigError, checkpoint_file.Damaged)
                or "\n" in said
                or "not enough memory" in said
                or not 10 <= len(said) <= LONGEST
            ):
                wrong.append((turn, type(error).__name__, said[:300]))
        except Exception as error:
            wrong.append((turn, type(error).__name__, str(error)[:300]))
        assert time.process_time() - started < PATIENCE
    assert wrong == []
    assert accepted >= least
    assert refused >= least


def writer(path, mutate):
    """A function that writes the file that `mutate` makes of random numbers."""
    return lambda numbers: path.write_bytes(mutate(numbers))


OBJECT = (
    "<object><name>{}</name><pose>Left</pose><difficult>{}</difficult><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax>"
    "<ymax>{}</ymax></bndbox></object>"
)
XML = (
    "<annotation><folder>VOC2007</folder><filename>one.jpg</filename><size><width>40</width><height>30</height><depth>3"
    f"</depth></size>{OBJECT.format('cat', 0, 1, 1, 40, 30)}{OBJECT.format('dog', 1, 3, 4, 5, 6)}</annotation>"
).encode()


@pytest.fixture
def voc(tmp_path):
    """A folder in VOC's layout, of one image."""
    for part in ("JPEGImages", "Annotations", "ImageSets/Main", "ImageSets/Segmentation", "SegmentationClass"):
        (tmp_path / part).mkdir(parents=True)
    Image.new("RGB", (40, 30)).save(tmp_path / "JPEGImages/one.jpg")
    Image.new("L", (40, 30)).save(tmp_path / "SegmentationClass/one.png")
    (tmp_path / "Annotations/one.xml").write_bytes(XML)
    for task in ("Main", "Segmentation"):
        (tmp_path / f"ImageSets/{task}/train.txt").write_text("one\n")
    return tmp_path


def test_voc_annotations(voc):
    """2000 mutated XML files load or are refused in one line, within time and memory."""

    def read():
        DetectionSplit(read_voc(voc, "train"), augment=True)

    fuzz(2000, writer(voc / "Annotations/one.xml", lambda numbers: mutations.of_xml(numbers, XML)), read)


COCO = {
    "info": {"year": 2017},
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


@pytest.fixture
def coco(tmp_path):
    """A folder in COCO's layout, of two images."""
    for name in ("annotations", "train/deep"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("a.jpg", "deep/b.jpg"):
        Image.new("RGB", (40, 30)).save(tmp_path / "train" / name)
    return tmp_path


def test_coco_annotations(coco):
    """2000 mutated JSON files load with finite boxes or are refused in one line."""

    def read():
        split = DetectionSplit(read_coco(coco, "train"), augment=True)
        assert np.isfinite(split.annotations.boxes).all()
        assert len(split.ground_truth) == len(split)

    content = json.dumps(COCO).encode()
    path = coco / "annotations/instances_train.json"
    fuzz(2000, writer(path, lambda numbers: mutations.of_json(numbers, content)), read)


def encoded(image, form, **options):
    """A picture's file."""
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def test_label_pngs(tmp_path):
    """2000 mutated PNGs of each label kind are read or refused in one line."""
    values = np.arange(30, dtype=np.uint8).reshape(5, 6)
    palette = Image.fromarray(values).convert("P")
    kinds = [
        Image.fromarray(values), palette, Image.fromarray(values.astype(np.uint16) * 900), palette.convert("1"),
    ]  # fmt: skip
    files = [encoded(kind, "PNG") for kind in kinds] + [encoded(palette, "PNG", bits=4, transparency=2)]
    path = tmp_path / "label.png"
    fuzz(2000, writer(path, lambda numbers: mutations.of_png(numbers, numbers.choice(files))), lambda: read_label(path))


def test_photographs(tmp_path):
    """Mutated JPEG, BMP, PPM, GIF, WebP and TIFF files are read or refused in one line."""
    picture = Image.fromarray(np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3))
    files = [encoded(picture, form) for form in ("JPEG", "BMP", "PPM", "GIF", "WEBP", "TIFF")]
    files.append(encoded(picture, "TIFF", compression="tiff_lzw"))
    files.append(
        encoded(picture, "JPEG", progressive=True, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0", icc_profile=b"x" * 50)
    )
    path = tmp_path / "photograph.jpg"
    fuzz(
        1000, writer(path, lambda numbers: mutations.of_bytes(numbers, numbers.choice(files))), lambda: read_image(path)
    )


@pytest.mark.parametrize("which", ["imagelist", "classes", "camvid", "voc boxes", "voc segmentation", "voc augmented"])
def test_lists(voc, which):
    """Mutated lists of images and classes of each reader are read or refused in one line."""
    pairs = b"JPEGImages/one.jpg SegmentationClass/one.png\n"
    place, content, read = {
        "imagelist": ("train.txt", pairs, lambda: imagelist_pairs(voc, "train", ["cat", "dog"])),
        "classes": ("classes.txt", b"0 cat\n1 dog\n255 void\n", lambda: imagelist_pairs(voc, "train")),
        "camvid": ("train.txt", pairs.replace(b"J", b"/SegNet/CamVid/J"), lambda: camvid_pairs(voc, "train")),
        "voc boxes": ("ImageSets/Main/train.txt", b"one 1\ntwo -1\n", lambda: read_voc(voc, "train")),
        "voc segmentation": ("ImageSets/Segmentation/train.txt", b"one\n", lambda: voc_pairs(voc, "train")),
        "voc augmented": (
            "ImageSets/Segmentation/trainaug.txt",
            b"/JPEGImages/one.jpg /SegmentationClass/one.png\n",
            lambda: voc_pairs(voc, "train_aug"),
        ),
    }[which]
    (voc / "train.txt").write_bytes(pairs)
    fuzz(200, writer(voc / place, lambda numbers: mutations.of_bytes(numbers, content)), read, least=5)


def test_sbds_labels(tmp_path):
    """Mutated MATLAB files, plain and compressed, are read or refused in one line."""
    scipy_io = pytest.importorskip("scipy.io")
    path = tmp_path / "label.mat"
    values = np.arange(12, dtype=np.uint8).reshape(3, 4)
    files = []
    for compressed in (False, True):
        scipy_io.savemat(path, {"GTcls": {"Segmentation": values}}, do_compression=compressed)
        files.append(path.read_bytes())
    fuzz(
        500,
        writer(path, lambda numbers: mutations.of_bytes(numbers, numbers.choice(files))),
        lambda: read_voc_label(path),
    )


SWEEP = b"""
name: layers
program: tiny.yaml
method: random
metric: {name: test/top1, goal: maximize}
run_cap: 4
parameters:
  model.deform_layers: {values: [0, 1]}
  optim: {parameters: {lr: {distribution: log_uniform_values, min: 0.1, max: 1}, warmup: {min: 1, max: 3}}}
  seed: {value: 1}
command:
  - ${env}
  - dcnlab
  - fit
  - ${program}
  - data.workers=1
  - ${args_json_file}
"""
EXPERIMENT = b"""
extends: base.yaml
name: tiny
data: {train_length: 32, test_length: 40, batch_size: 16, image_size: 28, classes: [1, 2], scale: [1, 2.5]}
model: {backbone: {name: resnet10_slim}, dilation: 2}
optim: {lr: 0.1, milestones: [0.5, 20]}
trainer: {max_steps: 2, accelerator: cpu, threads: 1}
logger: {every: 1, entity: ~}
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current folder with an experiment."""
    monkeypatch.chdir(tmp_path)
    Path("base.yaml").write_text("seed: 3\n")
    Path("tiny.yaml").write_bytes(EXPERIMENT)
    return tmp_path


def test_mutated_sweep_files_give_one_line_or_load(here):
    """Edited YAML raises no other exception, neither in reading nor in making trials."""
    path = here / "sweep.yaml"
    tree = yaml.safe_load(SWEEP)

    def read():
        sweep = sweep_file.read(str(path))
        if sweep.swept and len(sweep.title) % 5 == 0:  # the trials' configs take long
            trials_of(sweep, limit=1)

    fuzz(2000, writer(path, lambda numbers: mutations.of_yaml(numbers, SWEEP, tree)), read)


def test_mutated_experiments_give_one_line_or_load(here):
    """500 edits of YAML; what loads must also be writable."""
    path = here / "tiny.yaml"
    tree = yaml.safe_load(EXPERIMENT)
    fuzz(
        500,
        writer(path, lambda numbers: mutations.of_yaml(numbers, EXPERIMENT, tree)),
        lambda: to_yaml(load_experiment(str(path))),
    )


def test_parameters_of_a_sweep(here):
    """200 mutated args.json files load or are refused in one line."""
    path = here / "args.json"
    content = b'{"optim": {"lr": 0.5}, "model.deform_layers": 1, "seed": 8, "data": {"classes": ["1"]}}'
    fuzz(
        200,
        writer(path, lambda numbers: mutations.of_json(numbers, content)),
        lambda: load_experiment("tiny.yaml", [str(path)]),
    )


def test_mutated_overrides_give_one_line_or_load(here):
    """300 pairs of a known key and a broken value."""
    keys = all_keys()
    args = []

    def mutate(numbers):
        broken = mutations.of_bytes(numbers, b"[1, 2.5]").decode("latin-1")
        args[:] = [f"{numbers.choice(keys)}={numbers.choice((broken, numbers.choice(mutations.LEAVES)))}"]

    fuzz(300, mutate, lambda: load_experiment("tiny.yaml", args))


RESULTS = {
    "schema": 1, "name": "tiny", "status": "finished", "seed": 3, "parameters": {"model.deform_layers": 1},
    "metrics": {"top1": 10.5, "top5": 60.0}, "model": {"params": 1000, "macs": 2000},
    "cost": {"train_seconds": 1.5, "images_per_second": 30.0, "peak_memory_bytes": 10**9},
    "environment": {"git": None, "torch": "2.11", "world_size": 1}, "wandb": {"id": None, "sweep": None},
}  # fmt: skip


def test_mutated_results_give_one_line_or_load(here):
    """Edited JSON is refused in one line or can be collected and tabulated."""
    run = here / "runs/tiny/a"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(to_yaml(load_experiment("tiny.yaml")))
    content = json.dumps(RESULTS).encode()
    known = identity.settings(load_run(run))
    path = run / "results.json"

    def read():
        found = Record(run, known, RunFolder(run).read_results(), 0.0)
        made = build_table.of_records("tiny", [found])
        table.cells(made)
        table.render(made, "json")

    fuzz(1000, writer(path, lambda numbers: mutations.of_json(numbers, content)), read)


def test_configs_of_runs(here):
    """Mutated config.yaml files of runs are collected or left out with a note."""
    run = here / "runs/tiny/a"
    run.mkdir(parents=True)
    content = to_yaml(load_experiment("tiny.yaml")).encode()
    (run / "results.json").write_text(json.dumps(RESULTS))
    path, tree = run / "config.yaml", yaml.safe_load(content)

    def read():
        found, notes = records([here / "runs"])
        if notes:
            raise ValueError(notes[0])
        build_table.of_records("tiny", found)

    fuzz(250, writer(path, lambda numbers: mutations.of_yaml(numbers, content, tree)), read)


def test_mutated_metrics_csv_can_be_continued(here):
    """400 edits: the file is continued after step 3 or refused in one line."""
    rows = io.StringIO()
    csv.writer(rows).writerows([["step", "train/loss"], [1, 0.5], [2, ""], [3, 0.25]])
    path = here / "metrics.csv"
    content = rows.getvalue().encode()
    fuzz(400, writer(path, lambda numbers: mutations.of_bytes(numbers, content)), lambda: MetricsFile(path, 3))


FOUND = [
    {"image_id": 7, "category_id": 9, "bbox": [1, 2, 3, 4.5], "score": 0.9},
    {"image_id": 7, "category_id": 4, "bbox": [10, 10, 5, 6], "score": 0.5},
    {"image_id": 70, "category_id": 4, "bbox": [0, 0, 40, 30], "score": 1},
]


@pytest.mark.parametrize("which", ["detections", "annotations"])
def test_score(tmp_path, which):
    """Mutated detections or annotations are scored or refused in one line, in each protocol."""
    detections, annotations = tmp_path / "detections.json", tmp_path / "annotations.json"
    detections.write_text(json.dumps(FOUND))
    annotations.write_text(json.dumps(COCO))
    path = tmp_path / f"{which}.json"
    content = path.read_bytes()
    protocols = iter(["coco", "voc07", "voc", "voc"] * 10**6)
    fuzz(
        1000,
        writer(path, lambda numbers: mutations.of_json(numbers, content)),
        lambda: score.render(score.detection(detections, annotations, next(protocols)), "text"),
    )


def test_score_of_voc_folders(voc):
    """300 mutated detections are scored against a VOC folder or refused in one line."""
    detections = voc / "detections.json"
    content = b'[{"image_id": "one", "category": "cat", "bbox": [1, 2, 3, 4.5], "score": 0.9}]'
    fuzz(
        300,
        writer(detections, lambda numbers: mutations.of_json(numbers, content)),
        lambda: score.detection(detections, voc, "voc07", "train"),
    )


def members(numbers, content):
    """The bytes of a zip archive, or of its members, their checksums right again."""
    if numbers.random() < 0.4:
        return mutations.of_bytes(numbers, content)
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w") as new:
        infos = old.infolist()
        chosen = numbers.choice(infos)
        for info in infos:
            inner = old.read(info)
            if info is chosen:
                inner = mutations.of_bytes(numbers, inner) if inner else b"x"
            new.writestr(info.filename, inner)
    return file.getvalue()


@pytest.mark.parametrize("legacy", [False, True])
def test_checkpoints(tmp_path, legacy):
    """1000 mutated checkpoints of both torch formats are read or refused in one line."""
    path = tmp_path / "last.ckpt"
    state = {"model.conv.weight": torch.arange(12.0).reshape(2, 2, 3), "model.norm.count": torch.tensor(3)}
    kept = {"global_step": 3, "epoch": 1, "state_dict": state, "optimizer_states": [{"state": {0: {"step": 1.5}}}]}
    torch.save(kept, path, _use_new_zipfile_serialization=not legacy)
    content = path.read_bytes()
    mutate = mutations.of_bytes if legacy else members
    fuzz(1000, writer(path, lambda numbers: mutate(numbers, content)), lambda: checkpoint_file.read(path))


@pytest.mark.parametrize("ending", ["npz", "safetensors"])
def test_weights(tmp_path, ending):
    """Mutated .npz and .safetensors files load or are refused in one line."""
    path = tmp_path / f"weights.{ending}"
    state = {"conv1.weight": torch.arange(12.0).reshape(2, 2, 3), "bn1.bias": torch.tensor([3.0])}
    if ending == "npz":
        np.savez(path, **{name: value.numpy() for name, value in state.items()})
    else:
        path.write_bytes(save(state))
    content = path.read_bytes()
    mutate = members if ending == "npz" else mutations.of_bytes
    fuzz(400, writer(path, lambda numbers: mutate(numbers, content)), lambda: weights_file.read(path))
