"""The memory that a training command keeps for its next step."""

import sys

import pytest
from command_line import python

STEPS = """
import ctypes, resource, sys, torch
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: no pages of 2 MiB, of which few would be counted
from dcnlab.io import memory
if sys.argv[1] == "keep":
    memory.keep_freed_memory()
for step in range(14):
    if step == 10:
        begun = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - begun)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_large_tensors_are_not_cleared_anew():
    """Tensors of 64 MiB fault in 16,384 pages each, or none where the memory of ten before them is kept."""
    faults = {}
    for way in ("keep", "return"):
        done = python("-c", STEPS, way)
        assert done.returncode == 0, done.stderr
        faults[way] = int(done.stdout)
    assert faults["keep"] < 8_000
    assert faults["return"] > 32_000
