"""The part of gpu_check.py that asks `dcnlab doctor`: a row with the machine, and one for each finding.

    python benchmarks/gpu_doctor.py --device cuda --rows FILE

Exit status 1 where something is broken, 3 where --device cuda finds no GPU.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import record
import torch

from dcnlab.cli import doctor
from dcnlab.cli.findings import BROKEN

SECTIONS = ("GPUs", "operators", "CUDA kernels")
NO_GPU = 3


def main() -> None:
    """Parse, ask, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--rows", type=Path, help="file of JSON lines, to which each row is appended when it comes")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("there is no CUDA GPU here", file=sys.stderr)
        sys.exit(NO_GPU)
    rows = record.Rows(options.rows)
    machine = record.machine(options.device)
    if options.device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        machine |= {"capability": f"{properties.major}.{properties.minor}", "gib": properties.total_memory / 2**30}
        machine |= {"multiprocessors": properties.multi_processor_count, "cudnn": torch.backends.cudnn.version()}
    rows.append({"machine": machine})
    broken = False
    for section, mark, text in doctor.findings(SECTIONS):
        rows.append({"section": section, "mark": mark, "text": text})
        print(f"{mark:7}{text}", flush=True)
        broken |= mark == BROKEN
    sys.exit(broken)


if __name__ == "__main__":
    main()
