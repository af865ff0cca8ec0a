"""Does data loading keep up? Decoding and resizing beside a plain torchvision pipeline, and the share of time waiting.

    python benchmarks/feeding.py --voc VOC --camvid CAMVID --out benchmarks/results/feeding_NAME.json

"decode" reads every image of a VOC folder (of one year) with its boxes, resizes it (shorter side 600, longer at most
1000), flips half of them and normalises: our split, and torchvision's VOCDetection with transforms.v2 in the same
order. "waiting" trains DeepLab with ResNet-18 on CamVid and counts the time in which the network waits for its batch.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import measure
import torch
import torchvision
from tabulate import tabulate
from torch.nn import functional
from torchvision.transforms import v2

from dcnlab import assembly, configfile

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def ours(root: str, split: str) -> Any:
    """Our training split, items by (pass, index)."""
    words = [f"data.root={root}", f"data.train={split}", f"data.test={split}", "data.workers=0"]
    return assembly.data_module(configfile.load("detection/rfcn_voc", words)).train


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
        def __init__(self) -> None:  # of a folder that is no whole VOCdevkit
            torchvision.datasets.VisionDataset.__init__(self, str(root), transforms=transforms)
            self.images, self.targets = [str(path) for path in images], [str(path) for path in annotations]

    return torchvision.datasets.wrap_dataset_for_transforms_v2(Plain(), target_keys=("boxes", "labels"))


def decode(root: Path, split: str, rounds: int) -> list[dict[str, Any]]:
    """Seconds of one pass over the images, one thread, both pipelines in turns."""
    torch.set_num_threads(1)
    mine, other = ours(str(root), split), peer(root, split)

    def read_mine() -> None:
        for index in range(len(mine)):
            mine[(0, index)]

    def read_other() -> None:
        for index in range(len(other)):
            other[index]

    times = measure.seconds([read_mine, read_other], rounds, "cpu", least=0.0)
    count = len(mine)
    row = {"what": "decode", "images": count, "ours_images_per_second": count / times[0]}
    return [row | {"torchvision_images_per_second": count / times[1], "times_faster": times[1] / times[0]}]


def waiting(root: str, workers: int, steps: int, device: str) -> dict[str, Any]:
    """Share of a training's time that its steps wait for their batch, after the first five."""
    words = [f"data.root={root}", f"data.workers={workers}", "model.backbone.name=resnet18", "data.batch_size=2"]
    config = configfile.load("segmentation/deeplab_camvid", [*words, "model.backbone.weights=none"])
    data = assembly.data_module(config)
    network = assembly.task_module(config, data.classes).model.to(device)
    data.trainer = type("Alone", (), {"global_rank": 0, "world_size": 1, "accumulate_grad_batches": 1})()
    batches = iter(data.train_dataloader())
    waited, begun = 0.0, 0.0
    for step in range(steps + 5):
        if step == 5:
            waited, begun = 0.0, time.perf_counter()
        asked = time.perf_counter()
        images, labels = next(batches)
        waited += time.perf_counter() - asked
        loss = functional.cross_entropy(network(images.to(device)).float(), labels.to(device), ignore_index=255)
        loss.backward()
        loss.item()
    took = time.perf_counter() - begun
    return {
        "what": "waiting",
        "workers": workers,
        "images_per_second": 2 * steps / took,
        "share_waiting": waited / took,
    }


def main() -> None:
    """Parse, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--voc", type=Path, help="VOC-style folder")
    parser.add_argument("--split", default="test", help="of it")
    parser.add_argument("--camvid", help="CamVid's folder")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    if options.camvid:
        rows.append(waiting(options.camvid, options.workers, options.steps, options.device))
    if options.voc:
        rows += decode(options.voc, options.split, options.rounds)
    print(tabulate(rows, "keys", floatfmt=".3f"))
    if options.out:
        measure.write(options.out, options.device, {"rounds": options.rounds, "steps": options.steps}, rows)


if __name__ == "__main__":
    main()
