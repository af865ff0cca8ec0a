"""The command line as a user calls it, in a process of its own."""

import os
import signal
import subprocess
import sys
import time

from locations import ROOT


def environment(**more):
    """The environment of a process that runs this checkout."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "DCNLAB_"))}
    return {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}


def dcnlab(*arguments, timeout=300, **more):
    """Run the command line in the current folder."""
    command = [sys.executable, "-P", "-m", "dcnlab", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment(**more))


def kill_after_its_first_checkpoint(run, *arguments):
    """Start the command line in the current folder, and kill -9 it once `run` has a checkpoint."""
    command = [sys.executable, "-P", "-m", "dcnlab", *map(str, arguments)]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (run / "checkpoints/last.ckpt").exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert not (run / "results.json").exists()
