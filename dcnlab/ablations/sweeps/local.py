"""Runs trials on this machine, several at once, each on a set of GPUs or on some of the cores."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from dcnlab.ablations.sweeps import child as children
from dcnlab.ablations.sweeps import launch
from dcnlab.ablations.sweeps.child import Child, Slot
from dcnlab.ablations.sweeps.display import Display
from dcnlab.ablations.sweeps.pace import Pace
from dcnlab.ablations.sweeps.stopping import stoppable
from dcnlab.ablations.sweeps.sweep_file import Sweep
from dcnlab.ablations.sweeps.trial import Trial
from dcnlab.io.text import one_line
from dcnlab.training import process_death


def run_all(
    sweep: Sweep,
    trials: Sequence[Trial],
    slots: list[Slot],
    arguments: Sequence[str],
    display: Display,
    pace: Pace,
    trial_minutes: float | None = None,
) -> tuple[int, int]:
    """Run the trials, as many at once as there are slots and while there is time; how many ended, how many failed."""
    waiting, free = deque(trials), list(slots)
    running: dict[int, tuple[Trial, Child]] = {}
    ended = failed = 0
    with stoppable() as haste:
        try:
            while waiting or running:
                while waiting and free:
                    if not pace.allows():
                        waiting.clear()
                        break
                    trial = waiting.popleft()
                    display.started(trial)
                    try:
                        child = start(sweep, trial, free[0], arguments)
                    except OSError as error:  # its folder or its log cannot be written, or no process be started
                        ended += 1
                        failed += not display.ended(trial, 0.0, f"it cannot start: {one_line(error)}")
                        continue
                    running[child.process.pid] = trial, child
                    del free[0]
                time.sleep(0.1)
                display.refresh()
                for pid, (trial, child) in list(running.items()):
                    pace.note(child.seconds)
                    if trial_minutes is not None and child.seconds > 60 * trial_minutes:
                        children.urge(child)
                    if child.process.poll() is not None:
                        del running[pid]
                        children.clear(child)
                        free.append(child.slot)
                        ended += 1
                        failed += not display.ended(trial, child.seconds, _how(child, trial_minutes))
        finally:
            children.stop([child for _, child in running.values()], haste)
    return ended, failed


def _how(child: Child, trial_minutes: float | None) -> str:
    """How a trial's process ended."""
    if child.urged is not None:
        return f"it took longer than --trial-minutes {trial_minutes:g}; the same command resumes it from its checkpoint"
    return process_death.ending(child.process.returncode)


def start(sweep: Sweep, trial: Trial, slot: Slot, arguments: Sequence[str]) -> Child:
    """Start a trial on a slot, its output in its log.txt."""
    command = launch.command(sweep, trial, arguments, slot.threads)
    return children.start(command, trial.folder / "log.txt", slot, launch.variables(sweep))


def slots(jobs: int | None, devices: int, accelerator: str, cores: int, trials: int) -> list[Slot]:
    """How many trials run at once, and on what.

    Args:
        jobs: trials at once that the user asks for; None: one for each set of GPUs, or for each core up to four.
        devices: GPUs of one trial.
        accelerator: auto, cpu or gpu, as the experiment says.
        cores: that this process may use.
        trials: the number of trials, which is the most slots.
    """
    gpus = [] if accelerator == "cpu" else visible_gpus()
    sets = [",".join(gpus[at : at + devices]) for at in range(0, len(gpus) - devices + 1, devices)]
    count = jobs or len(sets) or min(cores, 4)
    count = max(1, min(count, trials))
    threads = max(1, cores // count)
    # More jobs than sets of GPUs share them in turn.
    return [Slot(sets[at % len(sets)] if sets else None, threads) for at in range(count)]


def visible_gpus() -> list[str]:
    """Names of GPUs for CUDA_VISIBLE_DEVICES; empty, without importing torch, if there is no driver's device file."""
    if not any(Path("/dev").glob("nvidia[0-9]*")) and not Path("/dev/dxg").exists():
        return []
    import torch

    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [name.strip() for name in listed.split(",")] if listed else None
    count = torch.cuda.device_count()
    return names[:count] if names else [str(index) for index in range(count)]
