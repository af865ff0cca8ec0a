"""One context for signals and ranks: all ranks of a run end with the same status, which results.json records."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType

from dcnlab.config import outside
from dcnlab.config.schema import Config
from dcnlab.io.errors import ConfigError
from dcnlab.io.text import say_at_once
from dcnlab.training.distributed.rank import is_rank_0
from dcnlab.training.outcome import STOPPING, End, Interrupted, PeerFailed, Stopped, end_of
from dcnlab.training.parts import Parts
from dcnlab.training.run_folder import RunFolder

_SAME_SECONDS = 1.0
"""Between two signals that count as one: `timeout`, torchrun and terminals send each of theirs to a process twice."""


@contextlib.contextmanager
def same_end_on_all_ranks(
    parts: Parts, folder: RunFolder, write: Callable[[End], None], trains: bool = True
) -> Iterator[None]:
    """Turn signals into exceptions, and an exception on any rank into the same end of the run on all of them.

    Args:
        parts: of the run.
        folder: of the run.
        write: writes how the run ended, if it did not finish.
        trains: whether the run is trained, not only scored.

    Raises:
        ConfigError: the user can mend what went wrong.
        Interrupted: somebody stopped the run.
        PeerFailed: another rank failed by a bug.
        SystemExit: on ranks other than 0, where rank 0 has printed the reason.
    """
    failures = parts.failures
    failures.write_end = write
    with _signals_raise(parts):
        try:
            yield
        except BaseException as error:
            failures.start_ending()
            own_end = end_of(error, parts.config, failures.loader_death(error, parts.trainer.global_rank))
            end = failures.agree(own_end)
            try:
                write(end)
            finally:
                failures.written()
            _raise(error, end, own_end, parts, folder, trains)
        else:
            failures.start_ending()
        finally:
            failures.close()


def _raise(error: BaseException, end: End, own_end: End, parts: Parts, folder: RunFolder, trains: bool) -> None:
    """Raise the exception that the command turns into the exit status and the line of `end`.

    Args:
        error: of this rank.
        end: of the run.
        own_end: what `error` alone means.
        parts: of the run.
        folder: of the run.
        trains: whether the run is trained.
    """
    reports = parts.failures.reports()
    if end == own_end and end.kind == "bug":  # no other rank has its traceback
        raise error
    if not reports:
        raise SystemExit(end.exit_status) from error
    if end == own_end and end.kind == "mend" and isinstance(error, OSError | ConfigError):
        raise error
    if end.kind in ("mend", "diverged", "killed"):
        raise ConfigError(end.text) from error
    if end.kind == "bug":
        raise PeerFailed(end.text) from error
    raise Interrupted(folder.path, _resume_words(parts.config, folder) if trains else None, end.signal) from error


def _resume_words(config: Config, folder: RunFolder) -> list[str] | None:
    """The words after `dcnlab` that resume an interrupted run; None: it has no checkpoint, or was finished before."""
    if not folder.checkpoints() or (folder.read_results() or {}).get("status") == "finished":
        return None
    return ["resume", str(folder.path), *(f"--allow={module}" for module in outside.modules_of(config))]


@contextlib.contextmanager
def _signals_raise(parts: Parts) -> Iterator[None]:
    """Have the first signal of `STOPPING` end the run after its step, and a second one at once.

    Outside the training there is no step to save, so the first one ends the run at once.
    """
    signalled_at = 0.0

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal signalled_at
        saving, failures = parts.saving, parts.failures
        if failures.ending:  # results.json is being written
            return
        if saving.signal is None:
            saving.signal, signalled_at = number, time.monotonic()
            if saving.saves_when_asked and not failures.peer_ended:
                if number == signal.SIGINT and is_rank_0():
                    say_at_once("Ctrl-C: the run saves after this step and ends; a second one ends it at once")
                return
        elif time.monotonic() - signalled_at < _SAME_SECONDS and not failures.peer_ended:
            return
        for other in STOPPING:
            signal.signal(other, signal.SIG_IGN)
        saving.at_once = True
        raise Stopped(saving.signal)

    # A shell has its background jobs ignore Ctrl-C.
    numbers = [number for number in STOPPING if signal.getsignal(number) != signal.SIG_IGN or number != signal.SIGINT]
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
