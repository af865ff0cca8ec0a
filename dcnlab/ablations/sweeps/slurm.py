"""Runs the trials of a sweep as SLURM jobs and waits for them."""

from __future__ import annotations

import time
from collections.abc import Sequence

from dcnlab.ablations.sweeps import launch
from dcnlab.ablations.sweeps.display import Display
from dcnlab.ablations.sweeps.slurm_jobs import SlurmJobs
from dcnlab.ablations.sweeps.stopping import stoppable
from dcnlab.ablations.sweeps.sweep_file import Sweep
from dcnlab.ablations.sweeps.trial import Trial
from dcnlab.io.text import one_line

POLL_SECONDS = 5.0
"""Between two looks at the queue: SLURM's controller serves everybody."""


def queue_all(
    sweep: Sweep, trials: Sequence[Trial], queue: SlurmJobs, arguments: Sequence[str], display: Display
) -> int:
    """Submit the trials that are not in the queue yet, and wait for all; returns the number that failed."""
    failed = 0
    with stoppable():
        try:
            others = queue.adopt(trials)
            if len(others) < len(trials):
                display.say(f"{len(trials) - len(others)} of them are already in SLURM's queue")
            commands = {}
            for trial in others:
                try:
                    commands[trial.id] = launch.command(sweep, trial, arguments, queue.threads)
                    (trial.folder / "log.txt").write_bytes(b"")
                except OSError as error:
                    commands.pop(trial.id, None)
                    display.started(trial)
                    failed += not display.ended(trial, 0.0, f"it cannot start: {one_line(error)}")
            queue.submit([trial for trial in others if trial.id in commands], commands, launch.variables(sweep))
            while queue.waiting:
                time.sleep(POLL_SECONDS)
                display.refresh()
                began, ended = queue.poll()
                for trial in began:
                    display.started(trial)
                for trial, seconds, how in ended:
                    failed += not display.ended(trial, seconds, how)
        finally:
            queue.stop()
    return failed
