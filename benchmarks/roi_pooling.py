"""Deformable RoI pooling at the paper's sizes, beside poolings without shifts and, on a GPU, a scalar port.

    python benchmarks/roi_pooling.py                                  on the CPU, float32
    python benchmarks/roi_pooling.py --device cuda --dtype bfloat16   on a GPU

`ours` is `deform_ps_roi_pool`; `ours_aligned`, where there are no groups, `deform_roi_pool`. torchvision has no
deformable RoI pooling: its roi_align and ps_roi_align pool the same boxes, bins and samples unshifted, and return no
gradient of shifts, which is less work. `scalar` (scalar_psroi.py, GPU only) does all of it, laid out as the authors'
kernel. "forward" is the operator alone, "both" forward and all gradients. All get contiguous maps and gradients.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import measure
import memory
import record
import torch
import torchvision
from scalar_psroi import ScalarPool
from shared_options import parser_of
from tabulate import tabulate
from torch import Tensor

from dcnlab.ops import deform_ps_roi_pool, deform_roi_pool

BINS, SAMPLES, SCALE, GAMMA = 7, 4, 1 / 16, 0.1


@dataclass(frozen=True)
class Pooling:
    """A position-sensitive RoI pooling of the paper's networks, one image of 600 x 1000 pixels at stride 16."""

    channels: int
    group: int
    boxes: int = 300
    height: int = 38
    width: int = 63

    def __str__(self) -> str:
        return f"{self.boxes} boxes, {self.channels} of {self.channels * self.group**2}x{self.height}x{self.width}"

    def tensors(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Input, boxes of 10% to 50% of the image's sides, offset, gradient of the output; the same ones each time."""
        torch.manual_seed(0)
        input = torch.randn(1, self.channels * self.group**2, self.height, self.width, dtype=dtype)
        extent = torch.tensor([self.width, self.height]) / SCALE
        centre, half = torch.rand(self.boxes, 2) * extent, (0.05 + 0.2 * torch.rand(self.boxes, 2)) * extent
        corners = ((centre - half).clamp_min(0), torch.minimum(centre + half, extent - 1))
        rois = torch.cat((torch.zeros(self.boxes, 1), *corners), 1)
        offset = torch.randn(self.boxes, 2, BINS, BINS)
        return input, rois, offset, torch.randn(self.boxes, self.channels, BINS, BINS, dtype=dtype)


POOLINGS = [Pooling(21, 7), Pooling(8, 7), Pooling(256, 1)]
"""R-FCN's scores on VOC and its boxes; Faster R-CNN's head."""


def kinds(pool: Pooling, device: str) -> tuple[str, ...]:
    """Who takes part."""
    aligned = ("ours_aligned",) if pool.group == 1 else ()
    return ("ours", *aligned, "torchvision", *(("scalar",) if device == "cuda" else ()))


def make(
    kind: str, pool: Pooling, dtype: torch.dtype, device: str, backward: bool, small: bool = False
) -> measure.Work:
    """The work of one kind: a forward pass, or a forward and backward pass."""
    pool = Pooling(pool.channels, pool.group, boxes=4) if small else pool
    input, boxes, offset, grad = (tensor.to(device) for tensor in pool.tensors(dtype))
    if kind == "scalar":
        return _scalar(pool, input, boxes, offset, grad, backward)
    if kind == "torchvision":
        boxes = boxes.to(dtype)  # it takes one dtype only
    leaves = [t.requires_grad_(backward) for t in ((input,) if kind == "torchvision" else (input, offset))]

    def pooled() -> Tensor:
        if kind == "ours":
            sizes = {"group_size": pool.group, "part_size": BINS, "samples_per_bin": SAMPLES, "gamma": GAMMA}
            return deform_ps_roi_pool(input, boxes, offset, BINS, SCALE, **sizes)
        if kind == "ours_aligned":
            return deform_roi_pool(input, boxes, offset, BINS, SCALE, SAMPLES, GAMMA)
        if pool.group == 1:
            return torchvision.ops.roi_align(input, boxes, BINS, SCALE, SAMPLES, aligned=True)
        return torchvision.ops.ps_roi_align(input, boxes, BINS, SCALE, SAMPLES)

    return (lambda: torch.autograd.grad(pooled(), leaves, grad)) if backward else pooled


def _scalar(pool: Pooling, input: Tensor, boxes: Tensor, offset: Tensor, grad: Tensor, backward: bool) -> measure.Work:
    peer = ScalarPool(BINS, SCALE, pool.group, BINS, SAMPLES, GAMMA)

    def work() -> object:
        output, kept = peer.forward(input, boxes, offset)
        return peer.backward(grad, input, boxes, offset, kept) if backward else output

    return work


def run(options: argparse.Namespace, budget: measure.Budget) -> record.Rows:
    """Measure every pooling, forward and both passes, in every mode."""
    dtype, rows = getattr(torch, options.dtype), record.Rows(options.rows)
    pieces = {
        " ".join((str(pool), "both" if both else "forward", *([mode] if mode != "eager" else []))): (pool, both, mode)
        for pool in POOLINGS
        for both in (False, True)
        for mode in options.modes
    }
    for name, limit in budget.share(dict.fromkeys(pieces, 1.0)):
        pool, backward, mode = pieces[name]
        settings = (pool, dtype, options.device, backward)
        row: dict[str, Any] = {"pooling": str(pool), "channels": pool.channels, "group": pool.group}
        row |= {"pass": "both" if backward else "forward", "mode": mode}
        works = measure.in_mode(
            mode, {kind: make(kind, *settings) for kind in kinds(pool, options.device)}, options.device
        )
        ratios = {
            f"{ours.replace('ours', 'times_faster')}_than_{peer}": (peer, ours)
            for ours in works
            for peer in works
            if ours.startswith("ours") and not peer.startswith("ours")
        }
        limit, contenders = 0.5 * limit, list(works.values())
        row |= measure.timed(list(works), contenders, options.rounds, options.device, limit=limit, ratios=ratios)
        if mode == "eager" and not options.no_memory:
            row |= {f"{k}_mib": memory.peak_bytes(make, (k, *settings), options.device) / 2**20 for k in works}
        rows.append(row)
        faster = row.get("times_faster_than_torchvision", float("nan"))
        print(f"{name}: {faster:.1f} times faster than torchvision's", flush=True)
    return rows


def main() -> None:
    """Parse, measure, print, write."""
    parser = parser_of(__doc__, 7, "--device", "--dtype", "--modes", "--no-memory", "--rows")
    options = parser.parse_args()
    budget = measure.Budget(options.minutes)
    rows = run(options, budget)
    print(tabulate(rows, "keys", floatfmt=".2f"))
    if options.out:
        settings = {"dtype": options.dtype, "rounds": options.rounds, "left_out": budget.left_out}
        record.write(options.out, options.device, settings, rows)


if __name__ == "__main__":
    main()
