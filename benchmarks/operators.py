"""Deformable convolution beside torchvision's and the plain convolution of the same shape, in one run.

    python benchmarks/operators.py                                  on the CPU, float32
    python benchmarks/operators.py --device cuda --dtype bfloat16   on a GPU; float32 with --tf32, or strict without
    python benchmarks/operators.py --device cuda --modes replay     as CUDA graphs: the kernels without Python's share

Prints a table, and with --out writes JSON that names device, versions and date. "forward" is the operator alone,
"both" forward and all gradients. Peers are given what they like best: contiguous maps to torchvision, channels-last to
cuDNN and oneDNN, and our operator gets both. Torchvision's operator knows no bfloat16 on a GPU, and under autocast it
computes in float32: there it gets float32 maps.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import measure
import memory
import record
import torch
import torchvision
from shared_options import parser_of
from tabulate import tabulate
from torch.nn import functional

from dcnlab.ops import deform_conv2d

KINDS = ("ours", "ours_channels_last", "torchvision", "plain")
RATIOS = {
    "times_faster_than_torchvision": ("torchvision", "ours"),
    "times_plain": ("ours_channels_last", "plain"),
}


@dataclass(frozen=True)
class Shape:
    """A square layer with as many filters as channels."""

    channels: int
    height: int
    width: int
    batch: int = 1
    dilation: int = 1
    offset_groups: int = 1
    kernel: int = 3
    groups: int = 1

    def __str__(self) -> str:
        offsets = f" g{self.offset_groups}" if self.offset_groups > 1 else ""
        kernel = f" k{self.kernel}" if self.kernel != 3 else ""
        groups = f" of {self.groups} groups" if self.groups > 1 else ""
        return f"{self.channels}x{self.height}x{self.width} d{self.dilation} n{self.batch}{offsets}{kernel}{groups}"


SHAPES = {
    "paper": [Shape(512, 38, 63, dilation=2), Shape(512, 64, 64), Shape(256, 64, 64), Shape(128, 128, 128)],
    "resnet": [Shape(c, s, s, n) for c, s in ((64, 128), (128, 64), (256, 32), (512, 32)) for n in (1, 2, 8)],
}
# EfficientNet-Lite0's last stage at 360x480, output stride 16, and at 224x224.
SHAPES["depthwise"] = [Shape(1152, *size, kernel=k, groups=1152) for size in ((23, 30), (14, 14)) for k in (3, 5)]
SHAPES["main"] = SHAPES["paper"][:1]
SHAPES["tiny"] = [Shape(16, 9, 11), Shape(8, 12, 10, batch=2)]


def make(kind: str, shape: Shape, dtype: torch.dtype, device: str, backward: bool, small: bool = False) -> measure.Work:
    """The work of one kind: a forward pass, or a forward and backward pass."""
    torch.manual_seed(0)
    shape = replace(shape, height=24, width=24, batch=1) if small else shape  # in several chunks
    maps = (shape.batch, shape.channels, shape.height, shape.width)
    if kind == "torchvision" and device == "cuda" and dtype == torch.bfloat16:
        dtype = torch.float32
    layout = torch.channels_last if kind in ("ours_channels_last", "plain") else torch.contiguous_format
    input, weight, grad = (
        torch.randn(size, device=device, dtype=dtype).contiguous(memory_format=layout)
        for size in (maps, (shape.channels, shape.channels // shape.groups, shape.kernel, shape.kernel), maps)
    )
    offset = torch.randn(shape.batch, 2 * shape.kernel**2 * shape.offset_groups, *maps[2:], device=device) * 2
    if kind == "torchvision":
        offset = offset.to(dtype)  # it takes one dtype only
    sizes = {"padding": shape.dilation * (shape.kernel // 2), "dilation": shape.dilation}
    if kind == "plain":
        sizes["groups"] = shape.groups  # the others read it off the weight
    leaves = [t.requires_grad_(backward) for t in ((input, weight) if kind == "plain" else (input, offset, weight))]
    call: Any = {"plain": functional.conv2d, "torchvision": torchvision.ops.deform_conv2d}.get(kind, deform_conv2d)
    if not backward:
        return lambda: call(*leaves, **sizes)
    return lambda: torch.autograd.grad(call(*leaves, **sizes), leaves, grad)


def floor_seconds(shape: Shape, dtype: torch.dtype, backward: bool, flops: float, bandwidth: float) -> float:
    """The least time: the products' operations, or each tensor moved once, whichever takes longer."""
    pixels, passes = shape.batch * shape.height * shape.width, 3 if backward else 1
    weights = shape.kernel**2 * shape.channels**2 // shape.groups
    operations = 2 * pixels * weights * passes
    moved = (pixels * shape.channels * (5 if backward else 2) + weights) * dtype.itemsize
    return max(operations / flops, moved / bandwidth)


def measured(
    shape: Shape,
    dtype: torch.dtype,
    device: str,
    backward: bool,
    rounds: int,
    memory_of: Sequence[str] = KINDS,
    limit: float = math.inf,
    mode: str = "eager",
) -> dict[str, Any]:
    """One shape's row, forward or both passes, timed for at most about `limit` seconds."""
    settings = (shape, dtype, device, backward)
    row: dict[str, Any] = asdict(shape) | {"shape": str(shape), "pass": "both" if backward else "forward"}
    works = measure.in_mode(mode, {kind: make(kind, *settings) for kind in KINDS}, device)
    ratios = {name: pair for name, pair in RATIOS.items() if works.keys() >= set(pair)}
    row |= measure.timed(list(works), list(works.values()), rounds, device, limit=limit, ratios=ratios)
    return row | {f"{k}_mib": memory.peak_bytes(make, (k, *settings), device) / 2**20 for k in memory_of}


def run(options: argparse.Namespace, budget: measure.Budget) -> record.Rows:
    """Measure every shape, in every mode."""
    dtype, device, rows = getattr(torch, options.dtype), options.device, record.Rows(options.rows)
    ceilings = measure.ceilings(dtype) if device == "cuda" else (0.0, 0.0)
    shapes = [shape for name in options.shapes for shape in SHAPES[name]]
    pieces = {
        f"{shape} {'both' if both else 'forward'} {mode}": (shape, both, mode)
        for shape in shapes
        for both in (False, True)
        for mode in options.modes
    }
    for name, limit in budget.share(dict.fromkeys(pieces, 1.0)):
        shape, backward, mode = pieces[name]
        memory_of = KINDS if mode == "eager" and not options.no_memory else ()
        row = measured(shape, dtype, device, backward, options.rounds, memory_of, 0.5 * limit, mode)
        row |= {"mode": mode, "dtype": options.dtype}
        if device == "cuda" and "ours_channels_last_ms" in row:
            floor = floor_seconds(shape, dtype, backward, *ceilings)
            row["share_of_floor"] = 1e3 * floor / row["ours_channels_last_ms"]
        rows.append(row)
        print(".", end="", flush=True)
    print()
    return rows


def main() -> None:
    """Parse, measure, print, write."""
    parser = parser_of(__doc__, 7, "--device", "--dtype", "--modes", "--no-memory", "--rows")
    parser.add_argument("--tf32", action="store_true", help="let float32 convolutions use TF32")
    parser.add_argument("--shapes", nargs="+", choices=tuple(SHAPES), default=["paper"])
    parser.add_argument("--threads", type=int, help="CPU threads")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    precision = "tf32" if options.tf32 else "ieee"
    torch.backends.cudnn.conv.fp32_precision = precision  # type: ignore[attr-defined]
    torch.backends.cuda.matmul.fp32_precision = precision  # torchvision's products, and the ceiling's
    budget = measure.Budget(options.minutes)
    rows = run(options, budget)
    settings = {"dtype": options.dtype, "tf32": options.tf32, "rounds": options.rounds, "left_out": budget.left_out}
    hidden = ("channels", "height", "width", "batch", "dilation", "offset_groups", "kernel", "groups")
    columns = [name for name in dict.fromkeys(key for row in rows for key in row) if name not in hidden]
    headers = [name.replace("times_faster_than_", "x faster ").replace("_", " ") for name in columns]
    print(tabulate([[row.get(name) for name in columns] for row in rows], headers, floatfmt=".2f"))
    if options.out:
        record.write(options.out, options.device, settings, rows)


if __name__ == "__main__":
    main()
