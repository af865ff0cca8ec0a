"""One context for signals and ranks: whatever ends a run ends all its ranks alike, and results.json says how."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType

from dcnlab.io.errors import ConfigError
from dcnlab.training.outcome import End, Interrupted, PeerFailed, Terminated, TimeLimit, end_of
from dcnlab.training.parts import Parts
from dcnlab.training.run_folder import RunFolder


@contextlib.contextmanager
def same_end_on_all_ranks(parts: Parts, folder: RunFolder, write: Callable[[End], None]) -> Iterator[None]:
    """Turn signals into exceptions, and an exception on any rank into the same end of the run on all of them.

    Args:
        parts: of the run.
        folder: of the run.
        write: writes how the run ended, if it did not finish.

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
            _raise(error, end, own_end, failures.reports(), folder)
        else:
            failures.start_ending()
        finally:
            failures.close()


def _raise(error: BaseException, end: End, own_end: End, reports: bool, folder: RunFolder) -> None:
    """Raise the exception that the command turns into the exit status and the line of `end`.

    Args:
        error: of this rank.
        end: of the run.
        own_end: what `error` alone means.
        reports: whether this rank prints the reason.
        folder: of the run.
    """
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
    raise Interrupted(folder.path, bool(folder.checkpoints()), end.signal) from error


@contextlib.contextmanager
def _signals_raise(parts: Parts) -> Iterator[None]:
    """Turn SIGTERM into an exception at once, not after the batch: Lightning calls a handler that it finds.

    SIGUSR1, by which SLURM announces the time limit (`--signal=USR1@120`), waits in training for the end of the step.
    Elsewhere it acts at once.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        if parts.failures.ending:  # results.json is being written
            return
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        # Python drops an exception that is raised in a finaliser, so the next batch raises it once more.
        parts.saving.asked = TimeLimit if number == signal.SIGUSR1 else Terminated
        raise parts.saving.asked

    def stop_after_step(number: int, frame: FrameType | None) -> None:
        if parts.trainer.training:
            parts.saving.limit_is_near = True
        else:
            stop(number, frame)

    handlers = {signal.SIGTERM: stop, signal.SIGUSR1: stop_after_step}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
