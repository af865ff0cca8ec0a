"""The ways a run ends: their names and exit statuses, the exceptions, and what an exception means to the user."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dcnlab.config import names
from dcnlab.config.schema import Config
from dcnlab.io.errors import ConfigError, DataError
from dcnlab.io.text import one_line
from dcnlab.training import process_death

STATUSES = ("finished", "failed", "interrupted")
"""Values of `status` in results.json."""

EXIT_STATUS = {
    "finished": 0,
    "interrupted": 130,  # Ctrl-C or SIGTERM
    "time limit": 130,  # SIGUSR1, by which SLURM announces it
    "diverged": 2,
    "killed": 2,  # a rank or a loader process, as the system kills for want of memory
    "mend": 2,  # the user can mend it: a full disk, a damaged image
    "bug": 1,
}
"""Values of `end` in results.json, each with the exit status of the command."""
ENDS = tuple(EXIT_STATUS)
EXPECTED_MISSED = 1
"""Exit status of a command whose test missed a metric of `test.expected`; the run itself is finished."""


@dataclass(frozen=True)
class End:
    """How a run ended."""

    kind: str
    """One of `ENDS`."""
    text: str = ""
    """The line that the command prints."""
    reason: str = ""
    """The `reason` of results.json; empty for a run that finished or that somebody stopped."""
    signal: int | None = None
    """The signal that stopped the run."""

    @property
    def exit_status(self) -> int:
        """The exit status of the command."""
        return EXIT_STATUS[self.kind]

    @property
    def status(self) -> str:
        """The `status` of results.json."""
        if self.kind == "finished":
            return "finished"
        return "failed" if self.reason and self.kind != "killed" else "interrupted"

    @property
    def preempted(self) -> bool:
        """Whether a scheduler may have stopped the run, by SIGTERM or SIGUSR1, to run it again later."""
        return self.signal in (signal.SIGTERM, signal.SIGUSR1)


FINISHED = End("finished")


class Interrupted(BaseException):
    """Somebody stopped the run, by Ctrl-C or SIGTERM, or its time was up.

    Args:
        folder: the run folder.
        resume: the words after `dcnlab` that resume the run; None: nothing was saved, so it begins again.
        number: of the signal that stopped it.
    """

    def __init__(self, folder: Path, resume: Sequence[str] | None, number: int | None = None) -> None:
        super().__init__(str(folder))
        self.folder, self.resume, self.number = folder, resume, number

    def advice(self, words: Sequence[str]) -> str:
        """How to continue the run.

        Args:
            words: of the command line, after `dcnlab`.
        """
        if self.resume is None:
            return begin_again(words)
        return f"interrupted; resume with: {shlex.join(['dcnlab', *self.resume])}"


def begin_again(words: Sequence[str]) -> str:
    """The line of a command that was interrupted and saved nothing.

    Args:
        words: of the command line, after `dcnlab`.
    """
    return f"interrupted, nothing is saved; begin again with: {shlex.join(['dcnlab', *words])}"


STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Signals that end a run: Ctrl-C, the system's, and the one by which SLURM announces the time limit."""


class Stopped(BaseException):
    """A signal of `STOPPING` ends the run.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Diverged(ConfigError):
    """The training diverged, and no further step repairs it."""


class RankDied(RuntimeError):
    """A rank that this process started ended before all ranks had met."""

    def __init__(self, end: End) -> None:
        super().__init__(end.reason)
        self.end = end


class PeerFailed(RuntimeError):
    """Another rank failed by a bug, and has printed its traceback."""


def end_of(error: BaseException, config: Config, dead_loader: str | None) -> End:
    """What an exception in a run means to the user.

    Args:
        error: the exception that the training or the test raised.
        config: of the run.
        dead_loader: the loader process whose death is the cause, as `process_death.dead_loader` describes it.
    """
    if isinstance(error, Stopped):
        return End("time limit" if error.number == signal.SIGUSR1 else "interrupted", signal=error.number)
    if isinstance(error, RankDied):
        return error.end
    if isinstance(error, KeyboardInterrupt | SystemExit):  # Lightning turns Ctrl-C into SystemExit
        return End("interrupted", signal=signal.SIGINT)
    reason = f"{type(error).__name__}: {one_line(error)}"
    if isinstance(error, Diverged):
        return End("diverged", str(error), reason)
    if dead_loader is not None:
        need = f"fewer data.workers ({config.data.workers}) or a smaller data.batch_size ({config.data.batch_size})"
        return End("killed", f"{dead_loader}: {need} need less", dead_loader)
    if isinstance(error, ConfigError | DataError | OSError):
        return End("mend", str(error), reason)
    advice = _size_advice(error, config)
    if advice is not None:
        return End("mend", advice, reason)
    return End("bug", f"another rank failed: {reason}", reason)


def _size_advice(error: BaseException, config: Config) -> str | None:
    """What to change where a batch needs too much memory, or is too small for batch norm; None for other errors."""
    data = config.data
    if names.has_squares(config.task, data.name):
        keys = ["batch_size", "image_size"]
    else:
        sides = ("shorter_side", "longer_side", "crop_size")
        keys = ["batch_size", *(key for key in sides if getattr(data, key) is not None)]
    sizes = ", ".join(f"data.{key} is {getattr(data, key)}" for key in keys)
    if process_death.is_out_of_memory(error):
        return (
            f"out of memory: {sizes}; smaller ones need less (trainer.effective_batch keeps the images of a step), and "
            "so does trainer.precision=bf16-mixed"
        )
    # Images differ in size, and only the first one was checked before the training.
    if isinstance(error, ValueError) and str(error).startswith("Expected more than 1 value per channel when training"):
        return f"an image is too small for batch norm in training: {sizes}; take more or larger images at a time"
    return None


def killed(rank: int, process: int | None, how: str) -> End:
    """The end of a run whose rank `rank` died.

    Args:
        rank: of the dead process.
        process: its number, where it is known.
        how: it died, such as `was killed by signal 9 (SIGKILL)`.
    """
    reason = f"rank {rank}{'' if process is None else f' (process {process})'} {how}"
    return End("killed", f"{reason}; a smaller data.batch_size or fewer data.workers need less", reason)
