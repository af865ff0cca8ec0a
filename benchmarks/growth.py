"""How time and memory grow with batch, map, channels, offset groups and the number of RoIs, beside the peers.

    python benchmarks/growth.py --out benchmarks/results/growth_cpu.json --figure docs/images/growth_cpu.png
    python benchmarks/growth.py --draw benchmarks/results/growth_cpu.json --figure docs/images/growth_cpu.png

Deformable convolution, forward and backward, beside torchvision's operator and the plain convolution; deformable RoI
pooling beside torchvision's roi_align, which pools the same boxes without shifts. Both axes of the figure are
logarithmic: work that grows in proportion is a straight line of slope one, and the table names the slopes.
"""

from __future__ import annotations

import argparse
import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import measure
import memory
import operators
import record
import torch
import torchvision
from operators import Shape
from shared_options import parser_of
from tabulate import tabulate

from dcnlab.io.atomic import write_whole
from dcnlab.ops import deform_roi_pool

BASE = Shape(128, 32, 32)
AXES: dict[str, list[tuple[int, Shape]]] = {
    "batch": [(n, replace(BASE, batch=n)) for n in (1, 2, 4, 8, 16)],
    "pixels": [(s * s, replace(BASE, height=s, width=s)) for s in (16, 32, 64, 128)],
    "channels": [(c, replace(BASE, channels=c)) for c in (32, 64, 128, 256, 512)],
    "offset groups": [(g, replace(BASE, offset_groups=g)) for g in (1, 2, 4, 8, 16)],
}
ROIS = (8, 32, 128, 512)
KINDS = ("ours", "torchvision", "plain")
LABELS = {"batch": "batch, images", "pixels": "pixels of the map", "RoIs": "number of RoIs"}
NAMES = {"ours": "dcnlab", "torchvision": "torchvision (RoIs: roi_align)", "plain": "plain convolution"}
LOOKS = {"ours": ("C0", "o"), "torchvision": ("C1", "s"), "plain": ("0.5", "^")}


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


def run(options: argparse.Namespace, budget: measure.Budget) -> list[dict[str, Any]]:
    """Measure every axis."""
    device, rows = options.device, []
    works: dict[str, tuple[str, int, Any, tuple[str, ...], tuple[Any, ...]]] = {
        f"{axis} {at}": (axis, at, operators.make, KINDS, (shape, torch.float32, device, True))
        for axis, shapes in AXES.items()
        for at, shape in shapes
    }
    works |= {f"RoIs {count}": ("RoIs", count, make_pool, KINDS[:2], (count, device)) for count in ROIS}
    costs = {name: _cost(at, rest[0]) for name, (_, at, _, _, rest) in works.items()}
    for name, limit in budget.share(costs):
        axis, at, make, kinds, rest = works[name]
        row: dict[str, Any] = {"axis": axis, "at": at}
        row |= measure.timed(kinds, [make(kind, *rest) for kind in kinds], options.rounds, device, limit=limit * 0.6)
        if not options.no_memory:
            row |= {f"{kind}_mib": memory.peak_bytes(make, (kind, *rest), device) / 2**20 for kind in kinds}
        rows.append(row)
        print(".", end="", flush=True)
    print()
    return rows


def _cost(at: int, what: Shape | int) -> float:
    """What a point is expected to take, in any unit: something for its processes, and something for its arithmetic."""
    if isinstance(what, int):
        return 1 + at / 64
    return 1 + what.batch * what.height * what.width * what.channels / 2**17


def slopes(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Exponent of each axis, by least squares on the logarithms; none where an axis has a single point."""
    lines = []
    for axis in dict.fromkeys(row["axis"] for row in rows):
        points = [row for row in rows if row["axis"] == axis]
        line: dict[str, Any] = {"axis": axis}
        for key in [key for key in points[0] if key.endswith(("_ms", "_mib")) and len(points) > 1]:
            line[key] = _slope([(row["at"], row[key]) for row in points])
        lines.append(line)
    return lines


def _slope(points: list[tuple[float, float]]) -> float:
    x = [math.log(at) for at, _ in points]
    y = [math.log(max(value, 1e-3)) for _, value in points]
    middle, height = sum(x) / len(x), sum(y) / len(y)
    rise = sum((a - middle) * (b - height) for a, b in zip(x, y, strict=True))
    return rise / sum((a - middle) ** 2 for a in x)


def draw(rows: list[dict[str, Any]]) -> bytes:
    """A PNG: a panel for each axis, time above and memory below, both logarithmic, under one legend."""
    file = io.BytesIO()
    figure_of(rows).savefig(file, dpi=150, metadata={"Software": None})
    return file.getvalue()


def figure_of(rows: list[dict[str, Any]]) -> Any:
    """The figure that `draw` writes."""
    from matplotlib.figure import Figure

    axes = list(dict.fromkeys(row["axis"] for row in rows))
    units = {"ms": "milliseconds, both passes", "mib": "most memory held, MiB"}
    units = {unit: label for unit, label in units.items() if f"ours_{unit}" in rows[0]}
    figure = Figure(figsize=(3.1 * len(axes), 3.0 * len(units)), layout="constrained")
    panels = figure.subplots(len(units), len(axes), squeeze=False)
    for line, (unit, label) in enumerate(units.items()):
        for panel, axis in zip(panels[line], axes, strict=True):
            points = [row for row in rows if row["axis"] == axis]
            _panel(panel, points, unit)
            panel.set_xlabel(LABELS.get(axis, axis))
        panels[line][0].set_ylabel(label)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return figure


def _panel(panel: Any, points: list[dict[str, Any]], unit: str) -> None:
    from matplotlib.ticker import LogLocator

    at = [row["at"] for row in points]
    for kind, (colour, marker) in LOOKS.items():
        if f"{kind}_{unit}" in points[0]:
            values = [row[f"{kind}_{unit}"] for row in points]
            panel.plot(at, values, color=colour, marker=marker, label=NAMES[kind], markersize=4)
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    panel.yaxis.set_major_formatter("{x:g}")
    panel.set_xticks(at, [str(value) for value in at])
    panel.minorticks_off()
    panel.grid(alpha=0.3)


def main() -> None:
    """Parse, measure, print, write, draw."""
    parser = parser_of(__doc__, 5, "--device", "--no-memory")
    parser.add_argument("--draw", type=Path, metavar="JSON", help="measure nothing, draw what was measured")
    parser.add_argument("--figure", type=Path, help="PNG file")
    options = parser.parse_args()
    budget = measure.Budget(options.minutes)
    rows = json.loads(options.draw.read_text())["rows"] if options.draw else run(options, budget)
    print(tabulate(rows, "keys", floatfmt=".2f"))
    print("slopes:\n" + tabulate(slopes(rows), "keys", floatfmt=".2f"))
    settings = {"dtype": "float32", "rounds": options.rounds, "left_out": budget.left_out}
    if options.out and not options.draw:
        record.write(options.out, options.device, settings, rows)
    if options.figure:
        options.figure.parent.mkdir(parents=True, exist_ok=True)
        write_whole(options.figure, draw(rows))


if __name__ == "__main__":
    main()
