"""Every shape of operators.py on a CPU within a time limit: the paper's layers, and ResNet's at batch 1, 2 and 8.

    python benchmarks/operators_cpu.py --minutes 5 --out benchmarks/results/operators_cpu.json
    python benchmarks/operators_cpu.py --shapes depthwise --minutes 1 --out benchmarks/results/depthwise_cpu.json

Float32, the same contenders and columns as operators.py, and the number of turns that each contender got: slow ones
get fewer. Memory is measured of ours and of torchvision's.
"""

from __future__ import annotations

from dataclasses import asdict

import measure
import operators
import record
import torch
from shared_options import parser_of
from tabulate import tabulate


def cost(shape: operators.Shape, backward: bool) -> float:
    """What torchvision's operator is expected to take, the slowest contender, in any unit."""
    return shape.batch * shape.height * shape.width * shape.channels * shape.kernel**2 * (7 if backward else 1)


def main() -> None:
    """Parse, measure, print, write."""
    parser = parser_of(__doc__, 7, "--no-memory")
    parser.add_argument("--shapes", nargs="+", choices=tuple(operators.SHAPES), default=["paper", "resnet"])
    options = parser.parse_args()
    shapes = sorted((shape for name in options.shapes for shape in operators.SHAPES[name]), key=lambda s: s.batch)
    pieces = {f"{shape} {'both' if both else 'forward'}": (shape, both) for shape in shapes for both in (False, True)}
    budget, rows = measure.Budget(options.minutes), []
    for name, limit in budget.share({name: cost(*piece) for name, piece in pieces.items()}):
        shape, backward = pieces[name]
        memory_of = () if options.no_memory else ("ours", "torchvision")
        # The rest is for the slowest contender, which takes more than its equal part, and for the memory.
        rows.append(operators.measured(shape, torch.float32, "cpu", backward, options.rounds, memory_of, 0.45 * limit))
        print(f"{name}: {rows[-1]['times_faster_than_torchvision']:.1f} times faster than torchvision", flush=True)
    columns = [key for key in rows[0] if key not in asdict(shapes[0])]
    print(tabulate([[row[key] for key in columns] for row in rows], columns, floatfmt=".2f"))
    settings = {"dtype": "float32", "rounds": options.rounds, "left_out": budget.left_out}
    if options.out:
        record.write(options.out, "cpu", settings, rows)


if __name__ == "__main__":
    main()
