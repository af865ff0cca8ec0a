"""Decides whether there is time for another trial, by the longest one before."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence


class Pace:
    """Time that a sweep may take, and the longest trial so far."""

    def __init__(self, minutes: float | None, before: Sequence[float]) -> None:
        """Start the clock.

        Args:
            minutes: that the sweep may take; None sets no limit.
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

    def note(self, seconds: float) -> None:
        """Record the seconds of a running or ended trial."""
        self.longest = max(self.longest, seconds)
