"""The fused kernel of deformable convolution beside the chunked path, forward, over channels and sizes of maps.

    python benchmarks/fused.py --out benchmarks/results/fused_NAME.json            on a GPU from Ampere on
    python benchmarks/fused.py --out benchmarks/results/fused_NAME.json --rule     and the rule for this device follows

3x3 filters, as many as channels, one offset group, maps channels-last. Prints a table and writes JSON that names
device, versions and date. With --rule the crossover, for each dtype the most channels up to which the fused kernel was
at least 5% faster on every map, goes into `dcnlab/ops/cuda/fused.json`, where the operator looks; a dtype in which it
was not faster even with the fewest channels loses its entry.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import measure
import torch
from tabulate import tabulate

from dcnlab.ops import deform_conv2d
from dcnlab.ops.cuda import choice

CHANNELS = (64, 96, 128, 192, 256, 384, 512)
MAPS = ((1, 32, 32), (1, 38, 63), (1, 64, 64), (1, 128, 128), (8, 64, 64), (8, 128, 128))
WAYS = {"fused": "always", "chunks": "never"}
GAIN = 1.05


def make(way: str, channels: int, size: tuple[int, int, int], dtype: torch.dtype) -> measure.Work:
    """A forward pass of the operator by one of both ways, as a CUDA graph: its kernels without Python's share."""
    torch.manual_seed(0)
    batch, height, width = size
    input, weight = (
        torch.randn(shape, device="cuda", dtype=dtype).contiguous(memory_format=torch.channels_last)
        for shape in ((batch, channels, height, width), (channels, channels, 3, 3))
    )
    offset = torch.randn(batch, 18, height, width, device="cuda") * 2

    os.environ[choice.VARIABLE] = WAYS[way]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # compiled, and cuBLAS's workspace made, before anything is captured
        for _ in range(3):
            deform_conv2d(input, offset, weight, padding=1)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        deform_conv2d(input, offset, weight, padding=1)
    return graph.replay


def run(dtype: torch.dtype, rounds: int) -> list[dict[str, Any]]:
    """Measure both ways at every shape, in turns."""
    rows = []
    for channels in CHANNELS:
        for size in MAPS:
            fused, chunks = measure.seconds([make(way, channels, size, dtype) for way in WAYS], rounds, "cuda")
            batch, height, width = size
            row: dict[str, Any] = {"dtype": str(dtype), "channels": channels}
            row |= {"batch": batch, "height": height, "width": width}
            row |= {"fused_ms": 1e3 * fused, "chunks_ms": 1e3 * chunks, "times_faster": chunks / fused}
            row["fused_tflops"] = 18 * channels**2 * batch * height * width / fused / 1e12
            rows.append(row)
            print(".", end="", flush=True)
    print()
    return rows


def crossover(rows: list[dict[str, Any]]) -> choice.Crossover | None:
    """What the rule may say after these rows of one dtype: never more than was faster throughout."""
    most = None
    for channels in sorted({row["channels"] for row in rows}):
        if any(row["channels"] == channels and row["times_faster"] < GAIN for row in rows):
            break
        most = channels
    if most is None:
        return None
    pixels = min(row["batch"] * row["height"] * row["width"] for row in rows)
    return choice.Crossover(min(row["channels"] for row in rows), most, pixels)


def keep(rule: Path, device: str, found: dict[str, choice.Crossover | None]) -> None:
    """Write a device's crossovers into the rule's file; other devices and dtypes stay."""
    content = json.loads(rule.read_text(encoding="utf-8"))
    entry = content["devices"].pop(device, {})
    for dtype, limits in found.items():
        entry.pop(dtype, None)
        if limits is not None:
            entry[dtype] = asdict(limits)
    if entry:
        content["devices"][device] = entry
    part = rule.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    part.replace(rule)


def main() -> None:
    """Parse, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda",), default="cuda")
    parser.add_argument(
        "--dtype", nargs="+", choices=("float16", "bfloat16", "float32"), default=["float16", "bfloat16"]
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rule", action="store_true", help="keep the crossovers for this device's model")
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0):
        parser.error("this needs a CUDA GPU of compute capability 8.0 or more")
    torch.backends.cudnn.conv.fp32_precision = "tf32"  # type: ignore[attr-defined]
    rows = [row for name in options.dtype for row in run(getattr(torch, name), options.rounds)]
    print(tabulate(rows, headers="keys", floatfmt=".3f"))
    dtypes = dict.fromkeys(row["dtype"] for row in rows)
    found = {dtype: crossover([row for row in rows if row["dtype"] == dtype]) for dtype in dtypes}
    for dtype, limits in found.items():
        print(f"{dtype}: {limits or 'not faster throughout, even with the fewest channels'}")
    if options.out:
        measure.write(options.out, options.device, {"rounds": options.rounds, "gain": GAIN}, rows)
    if options.rule:
        keep(choice.RULE, torch.cuda.get_device_name(), found)


if __name__ == "__main__":
    main()
