"""Run folders for the report's tests, small enough to work the figures out by hand."""

import json
from pathlib import Path

from PIL import Image

from dcnlab.config.load import load_experiment, to_yaml
from dcnlab.training.run_folder import RunFolder

SCRIPT = "<script>document.title='run'</script>"

# Layers: top-1 of seeds 0, 1 and 2. Means 73 and 75.5, deviations (n - 1) sqrt(13) and 0.5; difference +2.5.
TOP1 = {0: [70.0, 72.0, 77.0], 3: [75.0, 75.5, 76.0]}


def write_run(folder, top1=None, parameters=None, settings=(), seed=0, **more):
    """A run folder; finished where it has a score, and of the status and reason in `more` where it has none."""
    folder = Path(folder)
    folder.mkdir(parents=True)
    Path("one.yaml").write_text("trainer: {max_steps: 2}\n")
    overrides = [f"name={folder.parent.name}", f"id={folder.name}", f"seed={seed}", *settings]
    config = load_experiment("one.yaml", overrides, parameters or {})
    (folder / "config.yaml").write_text(to_yaml(config))
    results = {
        "schema": 1,
        "name": folder.parent.name,
        "status": "finished",
        "seed": seed,
        "parameters": parameters or {},
        "metrics": {} if top1 is None else {"top1": top1},
        "model": {"params": 68266, "macs": 8_320_000},
        "cost": {"train_seconds": 30.0 + seed, "images_per_second": 700.0, "peak_memory_bytes": 512 << 20},
        "environment": {"git": "abc", "dcnlab": "1", "torch": "2.11", "gpu": None},
        "wandb": {"id": None, "sweep": None},
    }
    results["metrics"] |= more.pop("metrics", {})
    RunFolder(folder).write_results({**results, **more})
    return folder


def write_curve(folder, loss, top1):
    """A metrics.csv of a loss at each step and a validation at the last."""
    lines = [f"0,{step},{value}," for step, value in enumerate(loss)]
    lines.append(f"0,{len(loss) - 1},,{top1}")
    lines.append(f"0,{len(loss)},,{top1 + 1}")
    (folder / "metrics.csv").write_text("\n".join(["epoch,step,train/loss,val/top1", *lines]) + "\n")


def write_everything(root):
    """Runs of all that a report shows: two rows of three seeds, classes, curves, pictures, measurements, failures."""
    for layers, scores in TOP1.items():
        for seed, top1 in enumerate(scores):
            parameters = {"model.deform_layers": layers, "seed": seed}
            classes = {"iou/Sky": 80.0 + layers + seed, f"iou/{SCRIPT}": 10.0 * seed}
            folder = write_run(root / "layers" / f"l{layers}s{seed}", top1, parameters, seed=seed, metrics=classes)
            write_curve(folder, [3.0 + seed, 2.0 + seed, 1.0 + seed], top1 - 5)
            if seed == 0:
                (folder / "pictures").mkdir()
                Image.new("RGB", (1200, 300), (200, 30 * layers, 90)).save(folder / "pictures" / "0.png")
                measured = {"mean": 2.0 + layers, "std": 0.5, "count": 7}
                row = {"layer": "layer4.2.conv2", "small": measured, "medium": measured, "large": measured}
                dilation = {"schema": 1, "rows": [{**row, "background": {"mean": None, "std": None, "count": 0}}]}
                (folder / "dilation.json").write_text(json.dumps(dilation))
            turned = [[-90, 40.0 + seed], [0, 70.0 + seed], [90, 50.0 + seed]]
            robustness = {"schema": 1, "metric": "top1", "rotation": turned, "scale": [[0.5, 30.0], [1.0, 70.0]]}
            (folder / "robustness.json").write_text(json.dumps(robustness))
    for number, lr in enumerate((0.1, 0.2)):
        write_run(root / "mixed" / f"lr{number}", 50.0 + number, settings=[f"optim.lr={lr}"])
    write_run(root / "broken" / "failed", status="failed", reason=f"ValueError: no {SCRIPT} \x1b[31m & 'quotes'")
    stopped = write_run(root / "broken" / "stopped", status="interrupted")
    (stopped / "checkpoints").mkdir()
    (stopped / "checkpoints" / "last.ckpt").touch()
    killed = write_run(root / "broken" / "killed")
    (killed / "results.json").unlink()
    unborn = root / "broken" / "unborn"
    unborn.mkdir()
    (unborn / "parameters.json").write_text('{"model.deform_layers": 9}')
    (unborn / "log.txt").write_text("dcnlab: model.deform_layers is 9\n\n")
