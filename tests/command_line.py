"""The command line as a user calls it, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def environment(**more):
    """The environment of a process that runs this checkout."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "DCNLAB_"))}
    return {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}


def dcnlab(*arguments, timeout=300, **more):
    """Run the command line in the current folder."""
    command = [sys.executable, "-P", "-m", "dcnlab", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment(**more))
