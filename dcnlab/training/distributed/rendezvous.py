"""Rendezvous of the ranks: waits for all of them with a time limit, and says which are missing."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pytorch_lightning.strategies import DDPStrategy

from dcnlab.io.errors import ConfigError
from dcnlab.io.text import one_line, say
from dcnlab.training.distributed.rendezvous_store import (
    FAILED,
    LISTEN_SECONDS,
    POLL_SECONDS,
    Rendezvous,
    connect,
    open_store,
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
    meeting = _Meeting(strategy)
    meeting.start()
    try:
        _wait_for(meeting, strategy, minutes)
        Rendezvous.met = True
        yield
    finally:
        meeting.over.set()


def _wait_for(meeting: _Meeting, strategy: DDPStrategy, minutes: float) -> None:
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


class _Meeting(threading.Thread):
    """Connects this rank to rank 0's store, and counts the other ranks there.

    A thread, because torch's store blocks where another program answers at that address.
    """

    def __init__(self, strategy: DDPStrategy) -> None:
        super().__init__(daemon=True, name="rendezvous")
        environment = strategy.cluster_environment
        assert environment is not None
        self.address, self.port = environment.main_address, environment.main_port
        self.rank, self.world_size = strategy.global_rank, strategy.world_size
        self.machines, self.per_machine = strategy.num_nodes, strategy.num_processes
        self.what = "machines" if self.machines > 1 else "processes"
        self.over = threading.Event()
        self.error: ConfigError | None = None
        self._server: Any = None
        self._absent = 1
        self._reason = ""

    def missing(self) -> str:
        """How many are missing, and where they are awaited: `1 of 2 machines at node01:29500`."""
        total = self.machines if self.machines > 1 else self.world_size
        return f"{self._absent} of {total} {self.what} at {self.address}:{self.port}"

    def hint(self) -> str:
        """What may be wrong with the address."""
        if self.machines > 1 and self.address in ("127.0.0.1", "localhost", "::1"):
            return "; no other machine can reach that: set MASTER_ADDR, MASTER_PORT and NODE_RANK on each"
        return f" ({self._reason})" if self._reason else ""

    def run(self) -> None:
        """Connect, again where the connection breaks, and poll until all ranks are there."""
        store: Any = None
        while not self.over.is_set() and self.error is None:
            try:
                if store is None:
                    store = self._connect()
                    store.set(f"dcnlab/here/{self.rank}", "yes")
                if store.check([FAILED]):
                    self._take_failure(store)
                    return
                self._absent = sum(not store.check(keys) for keys in self._keys())
                if self._absent == 0:
                    return
            except (OSError, RuntimeError) as error:  # rank 0 is not there, or gone again
                store = None
                self._absent, self._reason = 1, one_line(error)
            self.over.wait(POLL_SECONDS)

    def _keys(self) -> list[list[str]]:
        """The keys that each machine's ranks set; on a single machine, those that each rank sets."""
        size = self.per_machine if self.machines > 1 else 1
        firsts = range(0, self.world_size, size)
        return [[f"dcnlab/here/{rank}" for rank in range(first, first + size)] for first in firsts]

    def _take_failure(self, store: Any) -> None:
        """Read which rank failed before all had met; rank 0 waits until the others know it too."""
        failure = json.loads(store.get(FAILED))
        Rendezvous.failure_known = True
        store.set(f"dcnlab/heard/{self.rank}", "yes")
        deadline = time.monotonic() + (LISTEN_SECONDS if self.rank == 0 else 0)
        keys = [f"dcnlab/heard/{rank}" for rank in range(self.world_size)]
        while time.monotonic() < deadline and not all(store.check([key]) for key in keys):
            time.sleep(POLL_SECONDS)
        self.error = ConfigError(f"rank {failure['rank']}: {failure['text']}")

    def _connect(self) -> Any:
        """A connection to rank 0's store, which rank 0 opens."""
        from torch.distributed import DistNetworkError

        if self.rank == 0 and self._server is None:
            try:
                self._server = open_store(self.port)
            except DistNetworkError:
                self.error = ConfigError(
                    f"MASTER_PORT is {self.port}, where rank 0 cannot listen; another program may: set a free port"
                )
                raise
        return self._server or connect(self.address, self.port)
