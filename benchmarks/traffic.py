"""What the CUDA kernels ask of memory and how much they compute, counted without a GPU as their text runs on the CPU.

    python benchmarks/traffic.py --out benchmarks/results/traffic.json        # ten minutes

Nothing here is a measured time. Every load and store of every thread is counted, by
tests/helpers/host_cuda/counting.py, at the shapes' full sizes. Megabytes and millions:

    asked       what the threads' loads and stores name
    requests    the 32-byte sectors of each warp's request: what moves if no cache ever helps
    blocks      the same, each sector once a block: what moves if the first-level cache keeps all that a block reads
    least       the same, each sector once: every array read and written once
    scalar      what a scalar kernel asks for, a thread an element, as torchvision's and the authors' are
    flops       of floats, a fused multiply-add two; least: eight an element of the columns (four corners, for
                the columns or for the corners' dot products); two a channel of every pixel a bin reads. Products
                of two elements from memory, one a term of a dot product, are not counted: `places_backward` and
                `offset_backward` compute that many more
    floor us    the longer of `least` at 4.3 TB/s and `flops` at 60 TFLOP/s, an H200's figures: an estimate, and more
                than is needed where columns stay in the second-level cache
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import record
import torch
from operators import SHAPES, Shape
from roi_pooling import BINS, GAMMA, POOLINGS, SAMPLES, SCALE, Pooling
from tabulate import tabulate

from dcnlab.ops.cuda import deform_conv2d, roi_pool
from dcnlab.ops.geometry import ConvArguments, ConvGradients
from dcnlab.ops.pool_geometry import PoolGradients, PSRoIPoolArguments

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "helpers" / "host_cuda"))
from counting import CountedKernels, Launch

BYTES_PER_SECOND, FLOPS_PER_SECOND = 4.3e12, 60e12
CONVOLUTIONS = [*SHAPES["paper"], Shape(64, 128, 128)]
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True)
class Counts:
    """The launches of one forward and backward pass, and by kernel what there is to compare them with."""

    launches: list[Launch]
    least_flops: dict[str, float]
    scalars: dict[str, float]
    """Elements that a scalar kernel reads, writes or adds atomically."""


def convolution(shape: Shape, dtype: torch.dtype) -> Counts:
    """Count a deformable convolution, forward and backward."""
    torch.manual_seed(0)
    maps = (shape.batch, shape.channels, shape.height, shape.width)
    input, grad = (torch.randn(maps, dtype=dtype).contiguous(memory_format=torch.channels_last) for _ in range(2))
    weight = torch.randn(shape.channels, shape.channels, 3, 3, dtype=dtype)
    offset = torch.randn(shape.batch, 18 * shape.offset_groups, *maps[2:]) * 2
    padding = dilation = (shape.dilation, shape.dilation)
    arguments = ConvArguments(input, offset, weight, None, (1, 1), padding, dilation, None)
    kernels = CountedKernels()
    deform_conv2d.forward(arguments, kernels)
    deform_conv2d.backward(grad, arguments, ConvGradients(True, True, True, False, False), kernels)
    columns = 9 * grad.numel()
    least = {"sample": 8 * columns, "sample_and_count": 8 * columns, "places_backward": 8 * columns}
    least["gather"] = 8 * columns
    # Four corners and the column, twice; for both offsets of a tap the column's gradient and four corners; the column's
    # gradient and an atomic addition a corner.
    scalars = {"sample": 5 * columns, "sample_and_count": 5 * columns, "places_backward": 10 * columns}
    scalars["gather"] = 5 * columns
    return Counts(kernels.launches, least, scalars)


def pooling(pool: Pooling, dtype: torch.dtype) -> Counts:
    """Count a RoI pooling, forward and backward."""
    input, rois, offset, grad = pool.tensors(dtype)
    arguments = PSRoIPoolArguments(input, rois, offset, BINS, SCALE, pool.group, BINS, SAMPLES, GAMMA)
    kernels = CountedKernels()
    output = roi_pool.forward(arguments, kernels)
    roi_pool.backward(grad, arguments, PoolGradients(True, True), kernels)
    read = kernels.launches[0].loads["pixels"].bytes / dtype.itemsize
    least = {"pool": 2 * read, "input_backward": 2 * read, "offset_backward": 2 * read}
    corners_read = output.numel() * SAMPLES**2 * 4
    scalars = {"pool": corners_read + output.numel(), "input_backward": corners_read, "offset_backward": corners_read}
    return Counts(kernels.launches, least, scalars)


def rows_of(counts: Counts, dtype: torch.dtype) -> Iterator[dict[str, Any]]:
    """A row for each kernel, all its launches together."""
    for kernel in dict.fromkeys(launch.kernel for launch in counts.launches):
        launches = [launch for launch in counts.launches if launch.kernel == kernel]

        def total(count: str, launches: list[Launch] = launches) -> int:
            return sum(launch.bytes(count) for launch in launches)

        shared = [access for launch in launches for access in (launch.shared_loads, launch.shared_stores)]
        flops = sum(launch.operations for launch in launches)
        row: dict[str, Any] = {"kernel": kernel, "launches": len(launches), "asked_bytes": total("bytes")}
        row |= {
            "requests_bytes": total("sectors"),
            "blocks_bytes": total("of_blocks"),
            "least_bytes": total("distinct"),
        }
        row["scalar_bytes"] = counts.scalars[kernel] * dtype.itemsize if kernel in counts.scalars else None
        row |= {"flops": flops, "least_flops": counts.least_flops.get(kernel)}
        row["divisions"] = sum(launch.divisions for launch in launches)
        row |= {"shared_bytes": sum(access.bytes for access in shared)}
        row |= {name: sum(getattr(launch, name) for launch in launches) for name in ("barriers", "warp_operations")}
        row["floor_us"] = 1e6 * max(row["least_bytes"] / BYTES_PER_SECOND, flops / FLOPS_PER_SECOND)
        row["arrays"] = {
            f"{name} {what}": {
                count: sum(getattr(a, count) for a in found) for count in ("bytes", "requests", "sectors", "lines")
            }
            for what, side in (("loads", "loads"), ("stores", "stores"))
            for name in dict.fromkeys(name for launch in launches for name in getattr(launch, side))
            if (found := [getattr(launch, side)[name] for launch in launches if name in getattr(launch, side)])
        }
        yield row


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in megabytes and millions."""
    names = ("asked", "requests", "blocks", "least", "scalar")
    lines = []
    for row in rows:
        megabytes = [None if row[f"{name}_bytes"] is None else row[f"{name}_bytes"] / 1e6 for name in names]
        ratio = row["blocks_bytes"] / row["least_bytes"]
        flops = [None if row[name] is None else row[name] / 1e6 for name in ("flops", "least_flops")]
        lines.append([row["shape"], row["dtype"], row["kernel"], *megabytes, ratio, *flops, row["floor_us"]])
    headers = ["shape", "dtype", "kernel", *names, "blocks / least", "flops", "least", "floor us"]
    return tabulate(lines, headers, floatfmt=".1f")


def main() -> None:
    """Count, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtypes", nargs="+", choices=tuple(DTYPES), default=list(DTYPES))
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for shape in (*CONVOLUTIONS, *POOLINGS):
        for name in options.dtypes:
            dtype = DTYPES[name]
            counts = pooling(shape, dtype) if isinstance(shape, Pooling) else convolution(shape, dtype)
            rows += [{"shape": str(shape), "dtype": name} | row for row in rows_of(counts, dtype)]
            print(".", end="", flush=True)
    print()
    print(table(rows))
    if options.out:
        record.write(
            options.out, "cpu", {"bytes_per_second": BYTES_PER_SECOND, "flops_per_second": FLOPS_PER_SECOND}, rows
        )


if __name__ == "__main__":
    main()
