"""Meeting: the thread in which a rank connects to rank 0's store, and counts the ranks that are there."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

from pytorch_lightning.strategies import DDPStrategy

from dcnlab.io.errors import ConfigError
from dcnlab.io.text import one_line
from dcnlab.training.distributed.rendezvous_store import (
    FAILED,
    LISTEN_SECONDS,
    POLL_SECONDS,
    Rendezvous,
    connect,
    open_store,
)


class Meeting(threading.Thread):
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
