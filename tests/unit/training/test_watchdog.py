"""A run that stands still says so, with its phase, and is left alone."""

import subprocess
import sys

import pytest
from command_line import environment

STANDS = """
import sys, time
from dcnlab.training.callbacks import watchdog
from torch.utils.data.dataloader import _SingleProcessDataLoaderIter as Batches
from dcnlab.tasks.classification import Classification
watchdog.MINUTES = 0.02
def slow(function, wait=iter([9.5])):
    def call(*arguments):
        if sys.argv[1] == "fit":
            time.sleep(next(wait, 0))
        return function(*arguments)
    return call
WHERE
from dcnlab.cli.main import main
main()
"""
WHERES = {
    "loading data": "Batches._next_data = slow(Batches._next_data)",
    "forward": "Classification.training_step = slow(Classification.training_step)",
    "backward": "Classification.backward = slow(Classification.backward)",
    "evaluation": "Classification.test_step = slow(Classification.test_step)",
}


@pytest.mark.slow
@pytest.mark.parametrize("phase", WHERES)
def test_a_slow_step_is_reported_but_not_stopped(tiny, phase):
    """Warnings come at doubling intervals and name the phase; the run then finishes."""
    code = STANDS.replace("WHERE", WHERES[phase])
    command = [sys.executable, "-P", "-c", code, "fit", tiny, "id=one", "logger.wandb=false", "data.val=null"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment())
    assert (done.returncode, done.stdout) == (0, "runs/tiny/one\n"), done.stderr
    lines = [line for line in done.stderr.splitlines() if f", in: {phase}; " in line]
    assert 3 <= len(lines) <= 4, done.stderr  # after 1.2, 2.4, 4.8 and, if the machine is slow, 9.6 seconds
    assert all(line.startswith("warning: no batch has ended for 0.0") for line in lines[:2])
