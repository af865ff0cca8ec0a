"""Rendezvous of the ranks: waits for all of them with a time limit, and says which are missing."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pytorch_lightning.strategies import DDPStrategy

from dcnlab.io.errors import ConfigError
from dcnlab.io.text import say
from dcnlab.training.distributed.meeting import Meeting
from dcnlab.training.distributed.rendezvous_store import (
    LISTEN_SECONDS,
    POLL_SECONDS,
    Rendezvous,
)
from dcnlab.training.outcome import End, RankDied, killed
from dcnlab.training.process_death import ending

_SAY_SECONDS = {"machines": 5.0, "processes": 60.0}
"""After which a rank says that it waits; processes of the same machine may just be slow to start."""
_REPEAT_SECONDS = 60.0
"""Between two such lines."""


def watch_rendezvous(strategy: DDPStrategy, minutes: float) -> None:
    """Have the ranks meet in Python first, before torch has them meet in one call into C++.

    That call ignores signals, and does not report which ranks it waits for.

    Args:
        strategy: of the run's trainer.
        minutes: `trainer.rendezvous_minutes`.
    """
    torch_rendezvous = strategy.setup_distributed

    def setup_distributed() -> None:
        _disarm_lightning()
        with _all_ranks_present(strategy, minutes):
            try:
                torch_rendezvous()
            except RuntimeError as error:
                dead = _dead_child(strategy)
                if dead is None:
                    raise
                raise RankDied(dead[0]) from error

    strategy.setup_distributed = setup_distributed  # type: ignore[method-assign]


def _disarm_lightning() -> None:
    """Keep Lightning from killing this process without a message when a rank that it started is gone."""
    for thread in threading.enumerate():
        if thread.name == "child-process-observer":
            thread._child_processes = []  # type: ignore[attr-defined]


def _dead_child(strategy: DDPStrategy) -> tuple[End, bool] | None:
    """The end where a rank that this process started is dead, and whether a signal killed it."""
    for index, child in enumerate(getattr(strategy.launcher, "procs", [])):
        try:  # it stays a zombie, so that others can still look at it
            info = os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            continue
        if info is not None and info.si_status != 0:
            by_signal = info.si_code != os.CLD_EXITED
            how = f"was {ending(-info.si_status)}" if by_signal else f"ended with {ending(info.si_status)}"
            return killed(strategy.global_rank + 1 + index, child.pid, how), by_signal
    return None


@contextmanager
def _all_ranks_present(strategy: DDPStrategy, minutes: float) -> Iterator[None]:
    """Wait for all ranks, and keep rank 0's store open until torch's own connections stand.

    Raises:
        ConfigError: some do not come in time, or rank 0 cannot listen.
        RankDied: one of them is dead.
    """
    import torch.distributed as dist

    # torchrun's agents have met already, and share their store.
    if dist.is_initialized() or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == str(True):
        yield
        return
    meeting = Meeting(strategy)
    meeting.start()
    try:
        _wait_for(meeting, strategy, minutes)
        Rendezvous.met = True
        yield
    finally:
        meeting.over.set()


def _wait_for(meeting: Meeting, strategy: DDPStrategy, minutes: float) -> None:
    began, say_after = time.monotonic(), _SAY_SECONDS[meeting.what]
    death_seen: float | None = None
    while meeting.is_alive():
        meeting.join(POLL_SECONDS)  # unlike torch's own wait, this lets Python's signal handlers run
        waited = time.monotonic() - began
        dead = _dead_child(strategy)
        if dead is not None and meeting.is_alive():
            death_seen = death_seen or time.monotonic()
            # A rank that ended by itself has most likely reported why, which is about to arrive.
            if dead[1] or time.monotonic() - death_seen > LISTEN_SECONDS:
                raise RankDied(dead[0])
        if waited > 60 * minutes and meeting.is_alive():
            raise ConfigError(
                f"{meeting.missing()} did not come within {minutes:g} minutes "
                f"(trainer.rendezvous_minutes){meeting.hint()}"
            )
        if waited > say_after and strategy.local_rank == 0 and meeting.is_alive():
            say_after = waited + _REPEAT_SECONDS
            say(f"waiting for {meeting.missing()}{meeting.hint()}", file=sys.stderr, flush=True)
    if meeting.error is not None:
        raise meeting.error
