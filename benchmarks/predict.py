"""`dcnlab predict` on a folder: images a second beside the network's own forward pass, and memory against the count.

    python benchmarks/predict.py --out benchmarks/results/predict_cpu.json    # 1,000 and 10,000 images, three tasks
    python benchmarks/predict.py --run runs/NAME/ID --images FOLDER           # a run and photographs of yours

Without `--run`, a network of each task's quickstart is trained for two steps. The images are noise, a few of them
written and all others linked to those. Each command is a process, whose processor time is counted from the first image
on, and whose peak memory is the kernel's VmHWM. "forward" is the test's own call on one prepared image, with its
resizing to the image and its suppression of boxes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import record
from PIL import Image
from tabulate import tabulate

TASKS = ("classification", "segmentation", "detection")
COUNTS = (1_000, 10_000)
MADE = 16
"""Images that are written; links to them make up the number."""
SIDES = (96, 128)
"""Height and width of an image."""
FORWARDS = 30
"""Forward passes that are timed, after the first three."""


def made_images(folder: Path, count: int) -> Path:
    """A folder of `count` PNGs of noise."""
    folder.mkdir()
    for number in range(count):
        path = folder / f"{number:06d}.png"
        if number < MADE:
            noise = np.random.default_rng(number).integers(0, 255, (*SIDES, 3), np.uint8)
            Image.fromarray(noise).save(path)
        else:
            path.hardlink_to(folder / f"{number % MADE:06d}.png")
    return folder


def made_run(task: str, folder: Path) -> Path:
    """A run of the task's quickstart after two steps."""
    words = ["trainer.max_steps=2", "trainer.max_epochs=null", "data.train_length=64", "data.test_length=8"]
    words += ["logger.wandb=false", "data.val=null", "test.pictures=0", f"out={folder}", "id=run"]
    command = [sys.executable, "-m", "dcnlab", "fit", f"{task}/quickstart", *words]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return Path(done.stdout.split()[-1])


def forward_seconds(run: Path, image: Path) -> float:
    """Processor seconds of one image in the network, resized and normalised before."""
    import torch

    from dcnlab.training import prediction
    from dcnlab.training.loading import load

    task = load(run)
    assert task.config is not None
    prepared = prediction.Preparation(task.config)("image", str(image))
    size = prediction.BATCH if task.config.task == "classification" else 1
    compute, images, tensors = prediction._COMPUTE[task.config.task], [prepared] * size, [prepared.tensor] * size
    with torch.no_grad():
        for number in range(FORWARDS):
            if number == 3:
                begun = time.process_time()
            compute(task, images, tensors)
    return (time.process_time() - begun) / ((FORWARDS - 3) * size)


def command_in_this_process(words: list[str]) -> None:
    """Run `dcnlab predict`, and print its processor seconds from the first image on and its peak of memory."""
    from dcnlab.cli import main
    from dcnlab.training import prediction

    times: list[float] = []
    predictions = prediction.predictions

    def timed(*args: Any) -> Any:
        times.append(time.process_time())
        yield from predictions(*args)
        times.append(time.process_time())

    prediction.predictions = timed
    sys.argv = ["dcnlab", "predict", *words]
    try:
        main.main()
    finally:
        status = Path("/proc/self/status").read_text()
        peak = int(status.partition("VmHWM:")[2].split()[0]) << 10
        print(json.dumps({"seconds": times[1] - times[0], "peak_bytes": peak}))


def predicted(run: Path, images: Path, out: Path, pictures: bool) -> dict[str, Any]:
    """Seconds and peak memory of the command on a folder, and what it wrote."""
    words = [str(run), str(images), "--out", str(out), "--device", "cpu"] + ["--no-pictures"] * (not pictures)
    command = [sys.executable, __file__, "--command", *words]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    written = [path.stat().st_size for path in out.rglob("*") if path.is_file()]
    return {**json.loads(done.stdout.splitlines()[-1]), "written_bytes": sum(written), "files": len(written)}


def rows_of(task: str, run: Path, folders: list[Path]) -> list[dict[str, Any]]:
    """One row for each folder; pictures are drawn for the first alone."""
    forward = forward_seconds(run, next(folders[0].iterdir()))
    rows = []
    for number, images in enumerate(folders):
        count = sum(1 for _ in images.iterdir())
        with tempfile.TemporaryDirectory() as out:
            for pictures in (False, True)[: 2 if number == 0 else 1]:
                made = predicted(run, images, Path(out) / f"pictures{pictures}", pictures)
                rate = {"images_per_second": count / made["seconds"], "forward_per_second": 1 / forward}
                share = {"share_forward": forward * count / made["seconds"]}
                rows.append({"task": task, "images": count, "pictures": pictures, **rate, **share, **made})
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return rows


def main() -> None:
    """Measure each task in turn."""
    if sys.argv[1:2] == ["--command"]:
        command_in_this_process(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="*", default=TASKS)
    parser.add_argument("--counts", nargs="*", type=int, default=COUNTS)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows: record.Rows | list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if options.run is not None:
            rows += rows_of("of the run", options.run, [options.images])
        else:
            folders = [made_images(folder / f"{count}", count) for count in options.counts]
            for task in options.tasks:
                rows += rows_of(task, made_run(task, folder), folders)
    print(tabulate(rows, headers="keys", floatfmt=".3g", tablefmt="github"))
    if options.out is not None:
        record.write(options.out, "cpu", {"sides": list(SIDES)}, rows)


if __name__ == "__main__":
    main()
