"""Opening annotations of COCO's size, and scoring 5,000 images of 100 detections each, beside the tools alone.

    python benchmarks/under_load.py --out benchmarks/results/under_load_cpu.json
    python benchmarks/under_load.py --parts scoring --scored 500 --rounds 5 --out benchmarks/results/scoring_cpu.json

Each piece of work in a process of its own, the contenders in turns.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import measure
import numpy as np
import record

from dcnlab.data.detection.coco import read_coco
from dcnlab.metrics.coco_ap import coco_ap
from dcnlab.metrics.voc_ap import voc_ap
from dcnlab.training.callbacks.cost import peak_resident_bytes

CLASSES = 80
PARTS = ("opening", "scoring", "pycocotools")


def annotation_file(folder: Path, images: int, boxes: int, corners: int) -> Path:
    """Write COCO's layout: empty images and instances_train.json, whose masks have so many corners."""
    random = np.random.default_rng(0)
    for name in ("annotations", "train"):
        (folder / name).mkdir()
    entries = []
    for number in range(images):
        (folder / f"train/{number:012}.jpg").touch()
        entries.append({"file_name": f"{number:012}.jpg", "height": 480, "width": 640, "id": number, "license": 3})
    path = folder / "annotations/instances_train.json"
    with path.open("w") as file:
        names = [{"id": number, "name": f"class {number}"} for number in range(1, CLASSES + 1)]
        file.write(f'{{"images": {json.dumps(entries)}, "categories": {json.dumps(names)}, "annotations": [')
        for number in range(boxes):
            x, y, width, height = np.round(random.uniform(1, 300, 4), 2).tolist()
            outline = np.round(random.uniform(0, 300, 2 * corners), 2).tolist()
            entry = {"segmentation": [outline], "area": width * height, "iscrowd": 0, "image_id": number % images,
                     "bbox": [x, y, width, height], "category_id": number % CLASSES + 1, "id": number + 1}  # fmt: skip
            file.write(", " * (number > 0) + json.dumps(entry))
        file.write("]}")
    return path


def scene(images: int, found: int, objects: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Ground truth and detections, a part of which lie near an object."""
    random = np.random.default_rng(1)
    truth: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image in range(images):
        boxes = np.concatenate([random.uniform(0, 400, (objects, 2)), random.uniform(8, 200, (objects, 2))], 1)
        labels = random.integers(1, CLASSES + 1, objects)
        for box, label in zip(boxes.tolist(), labels.tolist(), strict=True):
            entry = {"id": len(truth) + 1, "image_id": image, "category_id": label, "bbox": box}
            truth.append({**entry, "area": box[2] * box[3], "iscrowd": 0})
        near = random.integers(0, objects, found)
        guesses = np.abs(boxes[near] + random.normal(0, 12, (found, 4)))
        guessed = np.where(random.random(found) < 0.7, labels[near], random.integers(1, CLASSES + 1, found))
        for box, label, score in zip(guesses.tolist(), guessed.tolist(), random.random(found).tolist(), strict=True):
            results.append({"image_id": image, "category_id": label, "bbox": box, "score": score})
    content = {
        "images": [{"id": image, "height": 600, "width": 600} for image in range(images)],
        "categories": [{"id": label, "name": f"class {label}"} for label in range(1, CLASSES + 1)],
        "annotations": truth,
    }
    return content, results


def alone(truth: dict[str, Any], results: list[dict[str, Any]], tool: str) -> None:
    """Score as the tool's own manual says."""
    if tool == "faster-coco-eval":
        from faster_coco_eval import COCO
        from faster_coco_eval import COCOeval_faster as Evaluation
    else:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval as Evaluation
    with contextlib.redirect_stdout(io.StringIO()):
        annotations = COCO()
        annotations.dataset = truth
        annotations.createIndex()
        evaluation = Evaluation(annotations, annotations.loadRes(results), iouType="bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()


def open_ours(path: Path) -> None:
    """Read the file with its checks."""
    read_coco(path.parents[1], "train")


def open_pycocotools(path: Path) -> None:
    """Read the file and index it."""
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):
        COCO(str(path))


def _once(work: Callable[..., None], args: tuple[Any, ...], first: tuple[Any, ...] | None) -> tuple[float, float, int]:
    if first is not None:
        work(*first)
    wall, processor = time.perf_counter(), time.process_time()
    work(*args)
    return time.perf_counter() - wall, time.process_time() - processor, peak_resident_bytes()


Works = dict[str, tuple[Callable[..., None], tuple[Any, ...]]]


def in_fresh_processes(
    works: Works, rounds: int, minutes: float | None, first: tuple[Any, ...] | None = None
) -> list[dict[str, Any]]:
    """Median time and largest memory of each piece of work, imports and what was given included in the memory.

    Args:
        works: functions with their arguments, by name.
        rounds: turns; fewer where the limit ends them.
        minutes: limit; null sets none.
        first: small leading arguments, with which each process does its work once before it is measured, so that no
            tool's import is; null does not.
    """
    taken: dict[str, list[tuple[float, float, int]]] = {name: [] for name in works}
    begun = time.monotonic()
    for turn in range(rounds):
        if turn and minutes is not None and (time.monotonic() - begun) * (turn + 1) / turn > 60 * minutes:
            break
        for name, (work, args) in works.items():
            warm = None if first is None else (*first, *args[len(first) :])
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                taken[name].append(pool.apply(_once, (work, args, warm)))
    rows = []
    for name, measured in taken.items():
        wall, processor, peak = (statistics.median(column) for column in zip(*measured, strict=True))
        times = {"seconds": round(wall, 3), "processor_seconds": round(processor, 3)}
        rows.append({"work": name, "turns": len(measured), **times, "peak_mib": int(peak) >> 20})
        print(rows[-1], flush=True)
    return rows


def score_coco(truth: dict[str, Any], results: list[dict[str, Any]], backend: str) -> None:
    """Ours, by COCO's rules."""
    coco_ap(truth, results, backend)


def score_voc(truth: dict[str, Any], results: list[dict[str, Any]]) -> None:
    """Ours, by VOC's rules."""
    voc_ap(truth, results, "voc07")


def main() -> None:
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--images", type=int, default=118_287)
    parser.add_argument("--boxes", type=int, default=860_001)
    parser.add_argument("--corners", type=int, default=26, help="of a mask; so that the file is as long as COCO's")
    parser.add_argument("--scored", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=1, help="the most turns")
    parser.add_argument("--minutes", type=measure.minutes, help="of each part, after its first turn")
    options = parser.parse_args()
    turns = options.rounds, options.minutes
    settings: dict[str, Any] = {"rounds": options.rounds}
    rows = []
    if "opening" in options.parts:
        with tempfile.TemporaryDirectory() as folder:
            path = annotation_file(Path(folder), options.images, options.boxes, options.corners)
            settings |= {"images": options.images, "boxes": options.boxes, "file_bytes": path.stat().st_size}
            works: Works = {"dcnlab read_coco": (open_ours, (path,)), "pycocotools COCO": (open_pycocotools, (path,))}
            rows += in_fresh_processes(works, *turns)
    content = scene(options.scored, 100, 7)
    tools = {
        "scoring": {
            "dcnlab coco": (score_coco, (*content, "faster")),
            "faster-coco-eval alone": (alone, (*content, "faster-coco-eval")),
            "dcnlab voc07": (score_voc, content),
        },
        "pycocotools": {
            "dcnlab coco, pycocotools": (score_coco, (*content, "pycocotools")),
            "pycocotools alone": (alone, (*content, "pycocotools")),
        },
    }
    for part in [part for part in tools if part in options.parts]:
        rows += in_fresh_processes(tools[part], *turns, first=scene(2, 2, 2))
        settings |= {"scored_images": options.scored, "detections_an_image": 100, "classes": CLASSES}
    settings |= {name: version(name) for name in ("faster-coco-eval", "pycocotools")}
    record.write(options.out, "cpu", settings, rows)


if __name__ == "__main__":
    main()
