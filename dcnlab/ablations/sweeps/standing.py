"""How far a sweep is: the running trials, the time that is left, and the best trial so far."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dcnlab.ablations.sweeps.trial import Trial
from dcnlab.io.files import read_tail
from dcnlab.io.text import visible
from dcnlab.metrics.names import goal, is_headline
from dcnlab.training.run_lines import duration, last_standing


@dataclass
class Running:
    """A trial at work."""

    trial: Trial
    began: float = field(default_factory=time.monotonic)
    step: int = 0
    steps: int = 1
    measures: str = ""
    """Loss and time left, as its log says."""

    def read(self) -> None:
        """Read the progress from its log."""
        try:
            standing = last_standing(read_tail(self.trial.folder / "log.txt"))
        except OSError:
            return
        if standing is not None:
            self.step, self.steps, line = standing
            self.measures = ", ".join(word for word in line.split(", ") if re.search(r"^loss | left$", word))

    @property
    def fraction(self) -> float:
        """Fraction of its training that is done."""
        return min(1.0, self.step / self.steps)


class SweepStanding:
    """Counts ended trials, and keeps the best one.

    Args:
        planned: trials that this call runs.
    """

    def __init__(self, planned: int) -> None:
        self.running: dict[str, Running] = {}
        self._planned, self._ended, self._seconds, self._most = planned, 0, 0.0, 1
        self._best: tuple[str, float, str] | None = None

    def begin(self, trial: Trial) -> None:
        """Count a trial that was started."""
        self.running[trial.id] = Running(trial)
        self._most = max(self._most, len(self.running))

    def end(self, trial: Trial, seconds: float) -> None:
        """Count a trial that ended, finished or not."""
        self.running.pop(trial.id, None)
        self._ended += 1
        self._seconds += seconds

    def take(self, trial: Trial, metrics: Mapping[str, Any]) -> None:
        """Compare a finished trial's first headline metric with the best so far."""
        key = next(filter(is_headline, metrics), None)
        if key is None or (self._best is not None and key != self._best[0]):
            return
        sign = -1 if goal(key) == "minimize" else 1
        if self._best is None or sign * metrics[key] > sign * self._best[1]:
            self._best = key, float(metrics[key]), visible(trial)

    @property
    def seconds_left(self) -> float | None:
        """To the end of the sweep, by the mean of ended trials, or by how far the running ones are; None: unknown."""
        now = time.monotonic()
        done = [(now - trial.began, trial.fraction) for trial in self.running.values() if trial.fraction > 0]
        if self._ended and self._seconds:
            each = self._seconds / self._ended
        elif done:
            each = sum(seconds for seconds, _ in done) / sum(fraction for _, fraction in done)
        else:
            return None
        waiting = self._planned - self._ended - len(self.running)
        rest = waiting + sum(1 - trial.fraction for trial in self.running.values())
        return each * max(0.0, rest) / self._most

    def time_left(self) -> str:
        """Time left, in words; empty where it is unknown."""
        left = self.seconds_left
        return f"about {duration(left)} left" if left else ""

    def __str__(self) -> str:
        """Time left and the best trial, in a line; empty where neither is known."""
        words = list(filter(None, [self.time_left()]))
        if self._best is not None:
            key, value, trial = self._best
            words.append(f"best so far {key} {value:.2f} ({trial})")
        return ", ".join(words)
