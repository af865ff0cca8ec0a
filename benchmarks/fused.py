"""The fused kernel of deformable convolution beside the chunked path, forward, over channels and sizes of maps.

    python benchmarks/fused.py --out benchmarks/results/fused_NAME.json            on a GPU from Ampere on
    python benchmarks/fused.py --out benchmarks/results/fused_NAME.json --rule     and the rule for this device follows

3x3 filters, as many as channels, one offset group, maps channels-last. Prints a table and writes JSON that names
device, versions and date. With --rule the crossover, for each dtype the most channels up to which the fused kernel was
at least 5% faster on every map, goes into `fused.json` in the user's cache folder, where the operator looks. A dtype in
which it was not faster even with the fewest channels is kept as null: its calls go through the chunks.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import measure
import record
import torch
from tabulate import tabulate

from dcnlab.ops import deform_conv2d
from dcnlab.ops.cuda import cache, fused_dispatch

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

    os.environ[fused_dispatch.VARIABLE] = WAYS[way]
    graph = measure.captured(lambda: deform_conv2d(input, offset, weight, padding=1), "cuda")
    if graph is None:
        raise SystemExit(f"{way}, {channels} channels, {size}: cannot be captured as a CUDA graph")
    return graph


def run(dtype: torch.dtype, rounds: int, budget: measure.Budget, rows: record.Rows) -> None:
    """Measure both ways at every shape, in turns; fewest channels first."""
    for name, _ in budget.share({f"{dtype} {channels} channels": float(channels) for channels in CHANNELS}):
        channels = int(name.split()[1])
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


def crossover(rows: list[dict[str, Any]]) -> fused_dispatch.Crossover | None:
    """What the rule may say after these rows of one dtype: never more than was faster throughout."""
    most = None
    for channels in sorted({row["channels"] for row in rows}):
        if any(row["channels"] == channels and row["times_faster"] < GAIN for row in rows):
            break
        most = channels
    if most is None:
        return None
    pixels = min(row["batch"] * row["height"] * row["width"] for row in rows)
    return fused_dispatch.Crossover(min(row["channels"] for row in rows), most, pixels)


def keep(device: str, found: dict[str, fused_dispatch.Crossover | None]) -> bool:
    """Write a device's crossovers into the cache folder, whether they were kept; other devices and dtypes stay."""
    try:
        devices = dict(json.loads(cache.read(fused_dispatch.RULE) or b"{}")["devices"])
        entry = dict(devices.get(device, {}))
    except (ValueError, TypeError, KeyError):  # none yet, or a broken one, which this replaces
        devices, entry = {}, {}
    devices[device] = entry | {dtype: limits and asdict(limits) for dtype, limits in found.items()}
    content = json.dumps({"schema": 1, "devices": devices}, indent=1) + "\n"
    fused_dispatch.crossovers.cache_clear()
    return cache.write(fused_dispatch.RULE, content.encode())


def main() -> None:
    """Parse, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda",), default="cuda")
    parser.add_argument(
        "--dtype", nargs="+", choices=("float16", "bfloat16", "float32"), default=["float16", "bfloat16"]
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--minutes", type=measure.minutes, help="time limit; the rest of the channels is left out")
    parser.add_argument("--rule", action="store_true", help="keep the crossovers for this device's model")
    parser.add_argument("--rows", type=Path, help="file of JSON lines, to which each row is appended when it comes")
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0):
        parser.error("this needs a CUDA GPU of compute capability 8.0 or more")
    torch.backends.cudnn.conv.fp32_precision = "tf32"  # type: ignore[attr-defined]
    rows = record.Rows(options.rows)
    share = options.minutes and options.minutes / len(options.dtype)
    for name in options.dtype:
        run(getattr(torch, name), options.rounds, measure.Budget(share), rows)
        dtype = f"torch.{name}"
        measured = [row for row in rows if row["dtype"] == dtype]
        if not measured:
            continue
        limits = crossover(measured)
        print(f"{dtype}: {limits or 'not faster throughout, even with the fewest channels'}")
        if options.rule:
            keep(torch.cuda.get_device_name(), {dtype: limits})
    print(tabulate(rows, headers="keys", floatfmt=".3f"))
    if options.out:
        record.write(options.out, options.device, {"rounds": options.rounds, "gain": GAIN}, rows)


if __name__ == "__main__":
    main()
