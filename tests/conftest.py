"""What tests of whole runs share: an experiment that takes a second, and the command line as a user calls it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

TINY = """
data: {train_length: 32, test_length: 40, batch_size: 16, image_size: 28}
model: {backbone: {name: resnet10_slim}}
trainer: {max_steps: 2, accelerator: cpu, threads: 1}
logger: {every: 1}
"""


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """An experiment file whose run takes seconds, in an empty current folder."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("WANDB_", "DCNLAB_"))]:
        monkeypatch.delenv(name)
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return str(path)


def environment(**more):
    """The environment of a process that runs this checkout."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "DCNLAB_"))}
    return {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}


def dcnlab(*arguments, timeout=300, **more):
    """Run the command line in the current folder."""
    command = [sys.executable, "-P", "-m", "dcnlab", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment(**more))
