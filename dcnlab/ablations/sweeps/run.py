"""A sweep without a server: runs the trials that are missing or failed, several at once, and says how they went."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from dcnlab.ablations.sweeps import local, sweep_file
from dcnlab.ablations.sweeps.local import Child, Slot
from dcnlab.ablations.sweeps.slurm import POLL_SECONDS, SlurmJobs
from dcnlab.ablations.sweeps.sweep_file import Sweep, Trial
from dcnlab.config.validation import check_paths
from dcnlab.io import machine
from dcnlab.io.atomic import write_whole
from dcnlab.io.errors import ConfigError
from dcnlab.io.file_lock import lock
from dcnlab.io.files import read_tail
from dcnlab.io.text import one_line, say, visible
from dcnlab.metrics import names as metric_names
from dcnlab.training import environment
from dcnlab.training.run_folder import RunFolder

LOG_LINES = 12
_LINE_LENGTH = 500


def run(
    name: str,
    out: str | None = None,
    jobs: int | None = None,
    limit: int | None = None,
    minutes: float | None = None,
    overrides: Sequence[str] = (),
    launcher: str = "local",
    slurm: Sequence[str] = (),
    trial_minutes: float | None = None,
) -> int:
    """Run a sweep's missing trials; one that fails, or cannot even start, leaves the others alone.

    Args:
        name: path or packaged name of the sweep file.
        out: folder of the runs; None takes the experiment's own.
        jobs: trials at once; None takes one a GPU, or one a core up to four; of SLURM, as many as it runs.
        limit: start no more trials than this, and leave the rest for the next call.
        minutes: start no trial that would not end in this time, going by the longest one before it, and leave the rest
            for the next call. The first one starts in any case.
        overrides: key=value for every trial.
        launcher: local, where trials are children of this process | slurm, where they are jobs of a cluster.
        slurm: options of sbatch for every trial, key=value.
        trial_minutes: stop a trial that runs longer and count it as failed; the next call resumes it.

    Returns:
        The exit status: 0 where every trial that was started finished, 1 where one failed.

    Raises:
        ConfigError: the sweep file or the config of any trial does not hold; none was started.
        Stopped: by a signal; no trial runs on.
    """
    sweep = sweep_file.read(name)
    arguments = [*overrides, *([f"out={out}"] if out is not None else [])]
    trials = sweep_file.trials(sweep, arguments, limit)
    for trial in trials:
        check_paths(trial.config)
    for note in sweep.notes:
        say(note, file=sys.stderr)
    home = trials[0].folder.parent
    with lock(home / ".sweep.lock"):
        finished = {trial.id: found for trial in trials if (found := _finished(trial)) is not None}
        for trial in trials:
            complaint = _results(trial.folder)[1]
            if complaint is not None and trial.id not in finished:
                say(complaint, file=sys.stderr)
        missing = [trial for trial in trials if trial.id not in finished]
        chosen = missing[:limit]
        elsewhere = sorted({str(folder.parent) for folder, _ in finished.values() if folder.parent != home})
        shared = f", some of them in {', '.join(elsewhere)}" if elsewhere else ""
        say(f"{sweep.title}: {len(trials)} trials in {home}, {len(finished)} finished before{shared}", flush=True)
        if not chosen:
            return 0
        pace = _Pace(minutes, [seconds for _, seconds in finished.values()])
        with _Display(len(trials), len(finished)) as display:
            if launcher == "slurm":
                queue = SlurmJobs(sweep.name, home, slurm, jobs)
                ended, failed = len(chosen), _queue_all(sweep, chosen, queue, arguments, display)
            else:
                config = trials[0].config.trainer
                devices = config.devices if isinstance(config.devices, int) else 1
                slots = local.slots(jobs, devices, config.accelerator, machine.cpus(), len(chosen))
                ended, failed = _run_all(sweep, chosen, slots, arguments, display, pace, trial_minutes)
    if pace.spent:
        say(f"--minutes {minutes:g} leave no time for another trial: the longest took {pace.longest / 60:.1f}")
    left = len(missing) - ended + failed
    done = f"{ended - failed} finished now, {failed} failed"
    say(done + (f"; the same command runs the {left} missing" if left else ""))
    return 1 if failed else 0


def _finished(trial: Trial) -> tuple[Path, float] | None:
    """A trial's finished run and its seconds of training; it may lie with another sweep whose trial is the same."""
    others = Path(trial.config.out).glob(f"*/{trial.id}")
    for folder in (trial.folder, *sorted(others)):
        results, _ = _results(folder)
        if results is not None and results["status"] == "finished":
            return folder, results["cost"].get("train_seconds") or 0.0
    return None


def _results(folder: Path) -> tuple[dict[str, Any] | None, str | None]:
    """A trial's results.json, and what is wrong with it: neither ends the sweep."""
    try:
        return RunFolder(folder).read_results(), None
    except ConfigError as error:
        return None, str(error)


def log_end(path: Path) -> list[str]:
    """The last lines of a log of any size, or why there are none."""
    try:
        return [line[:_LINE_LENGTH] for line in read_tail(path)[-LOG_LINES:]]
    except FileNotFoundError:
        return [f"there is no log {path}"]
    except OSError as error:
        return [f"its log cannot be read: {error.strerror or error}"]


class _Pace:
    """Whether there is time for another trial."""

    def __init__(self, minutes: float | None, before: Sequence[float]) -> None:
        """Start the clock.

        Args:
            minutes: to end in; None is without end.
            before: seconds that trials of earlier calls took.
        """
        self._began = time.monotonic()
        self._seconds = math.inf if minutes is None else 60 * minutes
        self._started = False
        self.longest = max(before, default=0.0)
        self.spent = False
        """Whether a trial was refused."""

    def allows(self) -> bool:
        """Whether one more trial would end in time; the first one may start in any case."""
        if self._started and time.monotonic() - self._began + self.longest > self._seconds:
            self.spent = True
        self._started = True
        return not self.spent

    def note(self, child: Child) -> None:
        """Take notice of how long a trial has taken, as yet or in the end."""
        self.longest = max(self.longest, child.seconds)


def _run_all(
    sweep: Sweep,
    trials: Sequence[Trial],
    slots: list[Slot],
    arguments: Sequence[str],
    display: _Display,
    pace: _Pace,
    trial_minutes: float | None = None,
) -> tuple[int, int]:
    """Run the trials, as many at once as there are slots and while there is time; how many ended, how many failed."""
    waiting, free = deque(trials), list(slots)
    running: dict[int, tuple[Trial, Child]] = {}
    ended = failed = 0
    with local.stoppable():
        try:
            while waiting or running:
                while waiting and free:
                    if not pace.allows():
                        waiting.clear()
                        break
                    trial = waiting.popleft()
                    display.started(trial)
                    try:
                        child = _start(sweep, trial, free[0], arguments)
                    except OSError as error:  # its folder or its log cannot be written, or no process be started
                        ended += 1
                        failed += not display.ended(trial, 0.0, f"it cannot start: {one_line(error)}")
                        continue
                    running[child.process.pid] = trial, child
                    del free[0]
                time.sleep(0.1)
                for pid, (trial, child) in list(running.items()):
                    pace.note(child)
                    if trial_minutes is not None and child.seconds > 60 * trial_minutes:
                        local.urge(child)
                    if child.process.poll() is not None:
                        del running[pid]
                        local.clear(child)
                        free.append(child.slot)
                        ended += 1
                        failed += not display.ended(trial, child.seconds, _how(child, trial_minutes))
        finally:
            local.stop([child for _, child in running.values()])
    return ended, failed


def _how(child: Child, trial_minutes: float | None) -> str:
    """How a trial's process ended."""
    if child.urged is not None:
        return f"it took longer than --trial-minutes {trial_minutes:g}; the same command goes on from its checkpoint"
    return environment.ending(child.process.returncode)


def _queue_all(
    sweep: Sweep, trials: Sequence[Trial], queue: SlurmJobs, arguments: Sequence[str], display: _Display
) -> int:
    """Have SLURM run the trials that it has not got already, and wait for all; how many failed."""
    failed = 0
    with local.stoppable():
        try:
            others = queue.adopt(trials)
            if len(others) < len(trials):
                display.say(f"{len(trials) - len(others)} of them are in SLURM's queue from before")
            commands = {}
            for trial in others:
                try:
                    commands[trial.id] = _command(sweep, trial, arguments, queue.threads)
                    (trial.folder / "log.txt").write_bytes(b"")
                except OSError as error:
                    commands.pop(trial.id, None)
                    display.started(trial)
                    failed += not display.ended(trial, 0.0, f"it cannot start: {one_line(error)}")
            queue.submit([trial for trial in others if trial.id in commands], commands, _mirror(sweep))
            while queue.waiting:
                time.sleep(POLL_SECONDS)
                began, ended = queue.poll()
                for trial in began:
                    display.started(trial)
                for trial, seconds, how in ended:
                    failed += not display.ended(trial, seconds, how)
        finally:
            queue.stop()
    return failed


def _start(sweep: Sweep, trial: Trial, slot: Slot, arguments: Sequence[str]) -> Child:
    command = _command(sweep, trial, arguments, slot.threads)
    return local.start(command, trial.folder / "log.txt", slot, _mirror(sweep))


def _command(sweep: Sweep, trial: Trial, arguments: Sequence[str], threads: int | None) -> list[str]:
    """What follows `dcnlab` to run a trial, whose folder and parameters it then finds."""
    trial.folder.mkdir(parents=True, exist_ok=True)
    parameters = trial.folder / "parameters.json"
    write_whole(parameters, json.dumps(trial.parameters) + "\n")
    where = [f"name={trial.config.name}", f"out={trial.config.out}", f"id={trial.id}", "trainer.progress=false"]
    if trial.config.trainer.threads is None and threads is not None:
        where.append(f"trainer.threads={threads}")
    return ["fit", sweep.program, str(parameters), *sweep.logger, *sweep.overrides, *arguments, *where]


def _mirror(sweep: Sweep) -> dict[str, str]:
    """Environment variables of the trials, for their mirror on wandb and by the sweep's command."""
    mode = {"WANDB_MODE": os.environ.get("WANDB_MODE") or "offline"}
    return {**mode, **dict(sweep.environment), "WANDB_SWEEP_ID": sweep.id}


class _Display:
    """Live bars on a terminal, a plain line a trial elsewhere."""

    def __init__(self, total: int, done: int) -> None:
        self._console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._all = self._progress.add_task("trials", total=total, completed=done)
        self._total, self._done = total, done
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> _Display:
        self._progress.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._progress.stop()

    def started(self, trial: Trial) -> None:
        """Show a trial at work."""
        self._tasks[trial.id] = self._progress.add_task(f"  {visible(trial)}", total=1)

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        self._console.print(visible(text))

    def ended(self, trial: Trial, seconds: float, how: str) -> bool:
        """Say how a trial went, with the end of its log where it failed; whether it finished."""
        self._progress.remove_task(self._tasks.pop(trial.id))
        results, complaint = _results(trial.folder)
        finished = results is not None and results["status"] == "finished"
        self._done += finished
        self._progress.update(self._all, completed=self._done)
        if results is not None and finished:
            shown = {key: value for key, value in results["metrics"].items() if metric_names.is_headline(key)}
            scores = ", ".join(f"{key} {value:.2f}" for key, value in shown.items())
            self.say(f"[{self._done}/{self._total}] {trial}: {scores}, {seconds:.0f} s")
            return True
        log = trial.folder / "log.txt"
        self.say(f"FAILED {trial}: {how}, its log is {log}")
        for line in [*log_end(log), *([complaint] if complaint else [])]:
            self.say(f"    {line}")
        return False
