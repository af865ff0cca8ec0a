"""Multi-scale deformable attention beside the formula by grid_sample, which transformers computes, in one run.

    python benchmarks/attention.py                                  on the CPU, float32
    python benchmarks/attention.py --device cuda --dtype bfloat16   on a GPU

`ours` is `ms_deform_attn`; `grid_sample` is the published formula: level by level, every sample of every channel in
memory, times the weights, summed. "forward" is the operator alone, "both" forward and all gradients. The sizes are
Deformable DETR's encoder on an image of 512 x 512 pixels (levels of 64 to 8 pixels, a query a pixel, 8 heads of 32
channels, 4 points), its decoder (300 queries), and a small one.

Stated on 29 November 2026, before the first measurement: on a CPU, at the encoder's sizes, ours is at least 3 times
faster forward and 3 times faster in both, and holds at most a quarter of the memory. Measured then, in processor time
of one thread of a busy AMD EPYC: 7.9 and 7.4 times faster, 5 MiB instead of 260 and 18 instead of 268; the decoder 3.1
and 3.9 times, the small layer 4.3 and 6.7 times.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import measure
import memory
import record
import torch
from shared_options import parser_of
from tabulate import tabulate
from torch import Tensor
from torch.nn import functional

from dcnlab.ops import ms_deform_attn


@dataclass(frozen=True)
class Attention:
    """One layer; each level is half as high and wide as the one before."""

    name: str
    queries: int | None = None
    """None: one for each pixel of all levels."""
    first: int = 64
    heads: int = 8
    channels: int = 32
    levels: int = 4
    points: int = 4

    def __str__(self) -> str:
        return self.name

    def tensors(self, dtype: torch.dtype, device: str) -> tuple[list[Tensor], Tensor]:
        """Value, shapes, starts, locations within some pixels of the queries' own, weights; the output's gradient."""
        torch.manual_seed(0)
        sizes = [(self.first >> level, self.first >> level) for level in range(self.levels)]
        areas = [height * width for height, width in sizes]
        queries = sum(areas) if self.queries is None else self.queries
        samples = 1, queries, self.heads, self.levels, self.points
        size = torch.tensor(sizes).flip(1)[:, None]
        locations = torch.rand(1, queries, 1, 1, 1, 2) + torch.randn(*samples, 2) * 2 / size
        weights = torch.randn(*samples).flatten(3).softmax(3).view(samples)
        value = torch.randn(1, sum(areas), self.heads, self.channels, dtype=dtype)
        starts = torch.tensor([0, *accumulate(areas)][:-1])
        grad = torch.randn(1, queries, self.heads * self.channels, dtype=dtype)
        tensors = [value, torch.tensor(sizes), starts, locations, weights]
        return [tensor.to(device) for tensor in tensors], grad.to(device)


ATTENTIONS = [Attention("encoder"), Attention("decoder", queries=300), Attention("small", first=16, heads=4)]
KINDS = "ours", "grid_sample"


def by_grid_sample(value: Tensor, sizes: list[list[int]], starts: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """The published formula; sizes are known, so that a GPU is not asked for them."""
    (batch, _, heads, channels), (queries, levels, points) = value.shape, (locations.shape[1], *locations.shape[3:5])
    grids, reads = (2 * locations - 1).to(value.dtype), []
    parts = value.split([height * width for height, width in sizes], 1)
    for level, (height, width) in enumerate(sizes):
        map = parts[level].flatten(2).transpose(1, 2).reshape(batch * heads, channels, height, width)
        grid = grids[:, :, :, level].transpose(1, 2).flatten(0, 1)
        reads.append(functional.grid_sample(map, grid, padding_mode="zeros", align_corners=False))
    factors = weights.to(value.dtype).transpose(1, 2).reshape(batch * heads, 1, queries, levels * points)
    total = (torch.stack(reads, -2).flatten(-2) * factors).sum(-1)
    return total.view(batch, heads * channels, queries).transpose(1, 2).contiguous()


def make(kind: str, attention: Attention, dtype: torch.dtype, device: str, backward: bool, small: bool = False) -> Any:
    """The work of one kind: a forward pass, or a forward and backward pass."""
    attention = Attention("tiny", first=8, heads=1) if small else attention
    (value, shapes, starts, locations, weights), grad = attention.tensors(dtype, device)
    leaves = [t.requires_grad_(backward) for t in (value, locations, weights)]
    sizes = shapes.tolist()

    def attend() -> Tensor:
        if kind == "ours":
            return ms_deform_attn(value, shapes, starts, locations, weights)
        return by_grid_sample(value, sizes, starts, locations, weights)

    return (lambda: torch.autograd.grad(attend(), leaves, grad)) if backward else attend


def run(options: argparse.Namespace, budget: measure.Budget) -> record.Rows:
    """Measure every layer, forward and both passes."""
    dtype, rows = getattr(torch, options.dtype), record.Rows()
    pieces = {
        f"{attention} {'both' if backward else 'forward'}": (attention, backward)
        for attention in ATTENTIONS
        for backward in (False, True)
    }
    for name, limit in budget.share(dict.fromkeys(pieces, 1.0)):
        attention, backward = pieces[name]
        settings = (attention, dtype, options.device, backward)
        works = [make(kind, *settings) for kind in KINDS]
        row: dict[str, Any] = {"layer": str(attention), "pass": "both" if backward else "forward"}
        ratios = {"times_faster_than_grid_sample": ("grid_sample", "ours")}
        row |= measure.timed(list(KINDS), works, options.rounds, options.device, limit=0.5 * limit, ratios=ratios)
        if not options.no_memory:
            row |= {f"{kind}_mib": memory.peak_bytes(make, (kind, *settings), options.device) / 2**20 for kind in KINDS}
        rows.append(row)
        print(f"{name}: {row['times_faster_than_grid_sample']:.1f} times faster than grid_sample", flush=True)
    return rows


def main() -> None:
    """Parse, measure, print, write."""
    options = parser_of(__doc__, 7, "--device", "--dtype", "--no-memory").parse_args()
    budget = measure.Budget(options.minutes)
    rows = run(options, budget)
    print(tabulate(rows, "keys", floatfmt=".2f"))
    if options.out:
        settings = {"dtype": options.dtype, "rounds": options.rounds, "left_out": budget.left_out}
        record.write(options.out, options.device, settings, rows)


if __name__ == "__main__":
    main()
