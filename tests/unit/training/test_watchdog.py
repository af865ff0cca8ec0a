"""A run that stands still says so, with its phase, and is left alone."""

import re

import pytest
from command_line import start_python
from processes import GUARD

STANDS = """
import sys, time
from dcnlab.training.callbacks import watchdog
from torch.utils.data.dataloader import _SingleProcessDataLoaderIter as Batches
from dcnlab.tasks.classification import Classification
watchdog.MINUTES = 0.01
def slow(function, wait=iter([4.8])):
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
def test_a_slow_step_is_reported_but_not_stopped(tiny):
    """Warnings come at doubling intervals and name the phase; the run then finishes."""
    runs = {}
    for phase, slowed in WHERES.items():  # all at once: they mostly wait
        words = [tiny, f"id={phase.replace(' ', '_')}", "logger.wandb=false", "data.val=null"]
        runs[phase] = start_python("-P", "-c", STANDS.replace("WHERE", slowed), "fit", *words)
    for phase, run in runs.items():
        printed, warned = run.communicate(timeout=GUARD)
        assert (run.returncode, printed) == (0, f"runs/tiny/{phase.replace(' ', '_')}\n"), warned
        lines = [line for line in warned.splitlines() if f", in: {phase}; " in line]
        waits = [float(re.search(r"no batch has ended for (\S+) minutes", line)[1]) for line in lines]
        stands = [[]]
        for wait in waits:  # on a slow machine another step may stand still as well
            stands += [[]] if stands[-1][-1:] > [wait] else []
            stands[-1].append(wait)
        assert max(map(len, stands)) >= 3, warned  # after 0.6, 1.2 and 2.4 seconds
        assert all(wait >= 0.01 * 2**number for stand in stands for number, wait in enumerate(stand)), warned
