"""What results.json says that a run cost."""

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np

from dcnlab.training.callbacks.cost import peak_resident_bytes

CHILD = "from dcnlab.training.callbacks.cost import peak_resident_bytes; print(peak_resident_bytes())"
PARENT = f"""
import subprocess, sys
held = b"x" * (1 << 30)
subprocess.run([sys.executable, "-c", {CHILD!r}], check=True)
"""


def test_peak_memory_counts_short_allocations():
    """An array that is freed at once still counts."""
    before = peak_resident_bytes()
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    np.ones(before - resident + (64 << 20), np.uint8).sum()
    assert peak_resident_bytes() > before + (32 << 20)


def test_peak_memory_excludes_the_parent_process():
    """Linux passes the parent's peak on to a forked child."""
    done = subprocess.run([sys.executable, "-c", PARENT], check=True, capture_output=True, text=True)
    assert 0 < int(done.stdout) < 1 << 30
