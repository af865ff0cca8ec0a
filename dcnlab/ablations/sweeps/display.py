"""Shows the trials of a sweep: bars on a terminal, else a line for each, and the end of a failed trial's log."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from dcnlab.ablations.numbers import mean_and_std
from dcnlab.ablations.sweeps.standing import SweepStanding
from dcnlab.ablations.sweeps.trial import Trial
from dcnlab.io.errors import ConfigError
from dcnlab.io.files import read_tail
from dcnlab.io.text import visible
from dcnlab.metrics import names as metric_names
from dcnlab.training.run_folder import RunFolder

LOG_LINES = 12
LOOK_SECONDS = 2.0
"""Between two looks into the logs of the running trials."""

_LINE_LENGTH = 500


def log_end(path: Path) -> list[str]:
    """The last lines of a log of any size, or why there are none."""
    try:
        return [line[:_LINE_LENGTH] for line in read_tail(path)[-LOG_LINES:]]
    except FileNotFoundError:
        return [f"there is no log {path}"]
    except OSError as error:
        return [f"its log cannot be read: {error.strerror or error}"]


def results_of(folder: Path) -> tuple[dict[str, Any] | None, str | None]:
    """A trial's results.json, and why it cannot be read; a broken file does not end the sweep."""
    try:
        return RunFolder(folder).read_results(), None
    except ConfigError as error:
        return None, str(error)


class Display:
    """Live bars on a terminal; elsewhere a plain line for each trial."""

    def __init__(self, total: int, done: int, planned: int) -> None:
        """Show nothing yet.

        Args:
            total: trials of the sweep.
            done: of them finished before.
            planned: of them to run now.
        """
        self._console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[measures]}", markup=False),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._all = self._progress.add_task("trials", total=total, completed=done, measures="")
        self._total, self._done = total, done
        self._tasks: dict[str, TaskID] = {}
        self.standing = SweepStanding(planned)
        self._looked_at = 0.0

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._progress.stop()

    def started(self, trial: Trial) -> None:
        """Show a trial at work."""
        self._tasks[trial.id] = self._progress.add_task(f"  {visible(trial)}", total=1, measures="")
        self.standing.begin(trial)

    def refresh(self) -> None:
        """Show how far the running trials are, by their logs; on a terminal, every few seconds."""
        if self._progress.disable or time.monotonic() - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = time.monotonic()
        for name, running in self.standing.running.items():
            running.read()
            self._progress.update(
                self._tasks[name], total=running.steps, completed=running.step, measures=visible(running.measures)
            )
        self._progress.update(self._all, measures=self.standing.time_left())

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        self._console.print(visible(text))

    def ended(self, trial: Trial, seconds: float, how: str) -> bool:
        """Print how a trial ended, with the end of its log if it failed; return whether it finished."""
        self._progress.remove_task(self._tasks.pop(trial.id))
        self.standing.end(trial, seconds)
        results, complaint = results_of(trial.folder)
        finished = results is not None and results["status"] == "finished"
        self._done += finished
        self._progress.update(self._all, completed=self._done)
        if results is not None and finished:
            shown = {key: value for key, value in results["metrics"].items() if metric_names.is_headline(key)}
            scores = ", ".join(f"{key} {mean_and_std(value)}" for key, value in shown.items())
            self.standing.take(trial, results["metrics"])
            self.say(f"[{self._done}/{self._total}] {trial}: {scores}, {seconds:.0f} s")
            if rest := str(self.standing) if self._done < self._total else "":
                self.say(f"    {rest}")
            return True
        log = trial.folder / "log.txt"
        self.say(f"FAILED {trial}: {how}, its log is {log}")
        for line in [*log_end(log), *([complaint] if complaint else [])]:
            self.say(f"    {line}")
        return False
