"""How time and memory grow with batch, map, channels, offset groups and the number of RoIs, beside the peers.

    python benchmarks/growth.py --out benchmarks/results/growth_NAME.json --figure docs/images/growth_NAME.png

Deformable convolution, forward and backward, beside torchvision's operator and the plain convolution; deformable RoI
pooling beside torchvision's roi_align, which pools the same boxes without shifts. Both axes of the figure are
logarithmic: work that grows in proportion is a straight line of slope one, and the table names the slopes.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import measure
import operators
import torch
import torchvision
from operators import Shape
from tabulate import tabulate

from dcnlab.ops import deform_roi_pool

BASE = Shape(128, 32, 32)
AXES: dict[str, list[tuple[int, Shape]]] = {
    "batch": [(n, replace(BASE, batch=n)) for n in (1, 2, 4, 8, 16)],
    "map side": [(s, replace(BASE, height=s, width=s)) for s in (16, 32, 64, 128)],
    "channels": [(c, replace(BASE, channels=c)) for c in (32, 64, 128, 256, 512)],
    "offset groups": [(g, replace(BASE, offset_groups=g)) for g in (1, 2, 4, 8, 16)],
}
ROIS = (8, 32, 128, 512)


def make_pool(kind: str, rois: int, device: str, small: bool = False) -> measure.Work:
    """Pool boxes of some 10x10 pixels from a map of 256 channels, forward and backward."""
    torch.manual_seed(0)
    count = 4 if small else rois
    features = torch.randn(1, 256, 64, 64, device=device, requires_grad=True)
    corners = torch.rand(count, 2) * 50
    boxes = torch.cat([torch.zeros(count, 1), corners, corners + 4 + torch.rand(count, 2) * 10], 1).to(device)
    offset = (torch.randn(count, 2, 7, 7, device=device) * 0.5).requires_grad_()
    grad = torch.randn(count, 256, 7, 7, device=device)

    def ours() -> object:
        output = deform_roi_pool(features, boxes, offset, 7, sampling_ratio=2)
        return torch.autograd.grad(output, [features, offset], grad)

    def peer() -> object:
        output = torchvision.ops.roi_align(features, boxes, 7, sampling_ratio=2)
        return torch.autograd.grad(output, [features], grad)

    return ours if kind == "ours" else peer


def run(device: str, rounds: int, memory: bool) -> list[dict[str, Any]]:
    """Measure every axis."""
    rows = []
    works: dict[str, list[tuple[int, Any, tuple[str, ...], tuple[Any, ...]]]] = {
        axis: [
            (at, operators.make, ("ours", "torchvision", "plain"), (shape, torch.float32, device, True))
            for at, shape in shapes
        ]
        for axis, shapes in AXES.items()
    }
    works["RoIs"] = [(count, make_pool, ("ours", "torchvision"), (count, device)) for count in ROIS]
    for axis, points in works.items():
        for at, make, kinds, rest in points:
            times = measure.seconds([make(kind, *rest) for kind in kinds], rounds, device)
            row: dict[str, Any] = {"axis": axis, "at": at}
            row |= {f"{kind}_ms": 1e3 * taken for kind, taken in zip(kinds, times, strict=True)}
            if memory:
                row |= {f"{kind}_mib": measure.peak_bytes(make, (kind, *rest), device) / 2**20 for kind in kinds}
            rows.append(row)
            print(".", end="", flush=True)
    print()
    return rows


def slopes(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Exponent of each axis, by least squares on the logarithms."""
    found = []
    for axis in dict.fromkeys(row["axis"] for row in rows):
        points = [row for row in rows if row["axis"] == axis]
        line: dict[str, Any] = {"axis": axis}
        for key in [key for key in points[0] if key.endswith(("_ms", "_mib"))]:
            x = [math.log(row["at"]) for row in points]
            y = [math.log(max(row[key], 1e-3)) for row in points]
            middle, height = sum(x) / len(x), sum(y) / len(y)
            rise = sum((a - middle) * (b - height) for a, b in zip(x, y, strict=True))
            line[key] = rise / sum((a - middle) ** 2 for a in x)
        found.append(line)
    return found


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """A panel for each axis, time above and memory below, logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    axes = list(dict.fromkeys(row["axis"] for row in rows))
    units = [("ms", "milliseconds")] + ([("mib", "MiB at the peak")] if "ours_mib" in rows[0] else [])
    figure, panels = plt.subplots(
        len(units), len(axes), figsize=(3.0 * len(axes), 2.7 * len(units)), squeeze=False, layout="constrained"
    )
    looks = {"ours": ("C0", "o"), "torchvision": ("C1", "s"), "plain": ("0.5", "^")}
    for line, (unit, label) in enumerate(units):
        for column, axis in enumerate(axes):
            panel, points = panels[line][column], [row for row in rows if row["axis"] == axis]
            for kind, (colour, marker) in looks.items():
                if f"{kind}_{unit}" in points[0]:
                    name = {"ours": "dcnlab", "plain": "plain convolution"}.get(kind, kind)
                    y = [row[f"{kind}_{unit}"] for row in points]
                    panel.plot([row["at"] for row in points], y, color=colour, marker=marker, label=name, markersize=4)
            panel.set_xscale("log", base=2)
            panel.set_yscale("log")
            panel.set_xticks([row["at"] for row in points], [str(row["at"]) for row in points])
            panel.grid(alpha=0.3)
            panel.set_xlabel(axis)
            if column == 0:
                panel.set_ylabel(label)
                panel.legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)


def main() -> None:
    """Parse, measure, print, write, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--out", type=Path, help="JSON file")
    parser.add_argument("--figure", type=Path, help="PNG file")
    options = parser.parse_args()
    rows = run(options.device, options.rounds, not options.no_memory)
    print(tabulate(rows, "keys", floatfmt=".2f"))
    print("slopes:\n" + tabulate(slopes(rows), "keys", floatfmt=".2f"))
    if options.out:
        measure.write(options.out, options.device, {"dtype": "float32", "rounds": options.rounds}, rows)
    if options.figure:
        draw(rows, options.figure)


if __name__ == "__main__":
    main()
