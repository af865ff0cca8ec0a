"""Does data loading keep up? Decoding and resizing beside a plain torchvision pipeline, and the share of time waiting.

    python benchmarks/feeding.py --out benchmarks/results/feeding_cpu.json
    python benchmarks/feeding.py --data DATA    # real photographs: DATA/camvid, DATA/voc100/VOCdevkit/VOC2012

"decode" reads every image of a VOC folder (of one year) with its boxes, resizes it (shorter side 600, longer at most
1000), flips half of them and normalises: our split, and torchvision's VOCDetection with transforms.v2 in the same
order. "waiting" trains DeepLab with ResNet-18, which is the quickest to come back for more, on CamVid's layout, with
the experiment's own number of loader processes, and counts the time in which the network waits for its batch.

Made photographs are smooth noise under fine noise, 640x480 for "decode" and 480x360 for "waiting", of some 100 KB.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import measure
import numpy as np
import record
import torch
import torchvision
from PIL import Image
from tabulate import tabulate
from torch.nn import functional
from torchvision.transforms import v2

from dcnlab.config.load import load_experiment
from dcnlab.training.build_data import data_module
from dcnlab.training.build_network import task_module

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SETS = {"waiting": "camvid", "decode": "voc100/VOCdevkit/VOC2012"}
SPLIT = "trainval"
START_STEPS = 5
"""Before the measured ones: the first batches wait for the loader processes to start."""
MADE = 32
"""Photographs of each kind."""
_XML = "<annotation><size><width>640</width><height>480</height><depth>3</depth></size>{}</annotation>"
_BOX = (
    "<object><name>cat</name><difficult>0</difficult><bndbox><xmin>{}</xmin><ymin>{}</ymin>"
    "<xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
)


def ours(root: str, split: str) -> Any:
    """Our training split, items by (pass, index)."""
    words = [f"data.root={root}", f"data.train={split}", f"data.test={split}", "data.workers=0"]
    return data_module(load_experiment("detection/rfcn_voc", words)).train


def peer(root: Path, split: str) -> Any:
    """The same files through torchvision's own data set and transforms."""
    transforms = v2.Compose(
        [
            v2.ToImage(),
            v2.Resize(600, max_size=1000, antialias=True),
            v2.RandomHorizontalFlip(0.5),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    names = (root / "ImageSets" / "Main" / f"{split}.txt").read_text().split()
    annotations = [root / "Annotations" / f"{name}.xml" for name in names]
    images = [root / "JPEGImages" / f"{name}.jpg" for name in names]

    class Plain(torchvision.datasets.VOCDetection):
        def __init__(self) -> None:  # of a folder that is not a whole VOCdevkit
            torchvision.datasets.VisionDataset.__init__(self, str(root), transforms=transforms)
            self.images, self.targets = [str(path) for path in images], [str(path) for path in annotations]

    return torchvision.datasets.wrap_dataset_for_transforms_v2(Plain(), target_keys=("boxes", "labels"))


def decode(root: Path, split: str, rounds: int, limit: float) -> list[dict[str, Any]]:
    """Images a second, one thread, both pipelines in turns for about `limit` seconds."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    mine, other = ours(str(root), split), peer(root, split)

    def read_mine() -> None:
        for index in range(len(mine)):
            mine[(0, index)]

    def read_other() -> None:
        for index in range(len(other)):
            other[index]

    kinds = ("ours", "torchvision")
    row: dict[str, Any] = {"what": "decode", "images": len(mine)}
    ratios = {"times_faster": ("torchvision", "ours")}
    row |= measure.timed(kinds, [read_mine, read_other], rounds, "cpu", least=0.0, limit=limit, ratios=ratios)
    torch.set_num_threads(threads)
    return [row | {f"{kind}_images_per_second": 1e3 * len(mine) / row[f"{kind}_ms"] for kind in kinds}]


def waiting(root: Path, workers: int | None, steps: int, device: str, limit: float) -> list[dict[str, Any]]:
    """Share of a training's time that its steps wait for their batch, after the first five; `limit` in seconds."""
    words = [f"data.root={root}", "model.backbone.name=resnet18", "model.backbone.weights=none", "data.batch_size=2"]
    words += [] if workers is None else [f"data.workers={workers}"]
    config = load_experiment("segmentation/deeplab_camvid", words)
    data = data_module(config)
    network = task_module(config, data.classes).model.to(device)
    data.trainer = type("Alone", (), {"global_rank": 0, "world_size": 1, "accumulate_grad_batches": 1})()
    batches = _endless(data.train_dataloader())
    waited, begun, end, done = 0.0, time.perf_counter(), time.perf_counter() + limit, 0
    for step in range(steps + START_STEPS):
        if step == START_STEPS:
            waited, begun = 0.0, time.perf_counter()
        if step > 2 * START_STEPS and time.perf_counter() > end:
            break
        asked = time.perf_counter()
        images, labels = next(batches)
        waited += time.perf_counter() - asked
        loss = functional.cross_entropy(network(images.to(device)).float(), labels.to(device), ignore_index=255)
        loss.backward()
        loss.item()
        done = step + 1 - START_STEPS
    took = time.perf_counter() - begun
    row = {"what": "waiting", "workers": config.data.workers, "steps": done, "images_per_second": 2 * done / took}
    return [row | {"share_waiting": waited / took}]


def _endless(loader: Iterable[Any]) -> Iterator[Any]:
    while True:
        yield from loader


def made_photographs(folder: Path) -> tuple[Path, Path]:
    """Write a CamVid-like folder and a VOC-style one."""
    random = np.random.default_rng(0)
    camvid, voc = folder / "camvid", folder / "voc"
    for path in (camvid / "train", voc / "JPEGImages", voc / "Annotations", voc / "ImageSets" / "Main"):
        path.mkdir(parents=True)
    lines, names = [], []
    for number in range(MADE):
        _photograph(random, 480, 360).save(camvid / f"train/{number}.jpg", quality=90)
        label = Image.fromarray(random.integers(0, 12, (9, 12), np.uint8)).resize((480, 360), Image.Resampling.NEAREST)
        label.save(camvid / f"train/{number}.png")
        lines.append(f"train/{number}.jpg train/{number}.png")
        _photograph(random, 640, 480).save(voc / f"JPEGImages/{number}.jpg", quality=90)
        boxes = "".join(_BOX.format(x, y, x + 100, y + 100) for x, y in random.integers(1, 300, (3, 2)))
        (voc / f"Annotations/{number}.xml").write_text(_XML.format(boxes))
        names.append(str(number))
    for split in ("train", "val", "test"):
        (camvid / f"{split}.txt").write_text("\n".join(lines))
    (voc / f"ImageSets/Main/{SPLIT}.txt").write_text("\n".join(names))
    return camvid, voc


def _photograph(random: np.random.Generator, width: int, height: int) -> Image.Image:
    coarse = Image.fromarray(random.integers(0, 255, (height // 40, width // 40, 3), np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float32)
    return Image.fromarray(np.clip(smooth + random.normal(0, 10, smooth.shape), 0, 255).astype(np.uint8))


def main() -> None:
    """Parse, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of these sets of photographs; what is missing is made")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--workers", type=int, help="loader processes; the experiment's own")
    parser.add_argument("--steps", type=int, default=100, help="the most training steps")
    parser.add_argument("--rounds", type=int, default=5, help="the most passes over the images")
    parser.add_argument("--minutes", type=measure.minutes, help="time limit")
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as made:
        given = {
            what: options.data / name for what, name in SETS.items() if options.data and (options.data / name).is_dir()
        }
        folders = given
        if given.keys() != SETS.keys():
            folders = dict(zip(("waiting", "decode"), made_photographs(Path(made)), strict=True)) | given
        budget = measure.Budget(options.minutes)  # making photographs is not part of it
        for what, limit in budget.share({"waiting": 3.0, "decode": 1.0}):
            root = folders[what]
            if what == "waiting":
                measured = waiting(root, options.workers, options.steps, options.device, limit)
            else:
                measured = decode(root, SPLIT, options.rounds, limit)
            rows += [row | {"photographs": SETS[what] if what in given else "made"} for row in measured]
    print(tabulate(rows, "keys", floatfmt=".3f"))
    settings = {"rounds": options.rounds, "steps": options.steps, "left_out": budget.left_out}
    if options.out:
        record.write(options.out, options.device, settings, rows)


if __name__ == "__main__":
    main()
