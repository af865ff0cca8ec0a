"""Propagates a failure on any rank to all ranks, so that all exit with the same status; rank 0 reports it.

Without it the other ranks would wait in a collective for the one that is gone, or report the broken connection.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.plugins.environments import LightningEnvironment

from dcnlab.io.text import say
from dcnlab.training.outcome import End, killed
from dcnlab.training.process_death import ProcessId, dead_loader, ending

_POLL_SECONDS = 0.25
_PATIENCE_SECONDS = 3.0
"""For the main thread to leave a blocking call after SIGTERM."""
_GONE_SECONDS = 20.0
"""For a rank to end by itself after rank 0, which may just have been quicker."""
_DEATH_SECONDS = 3.0
"""For a rank's death to be visible, after a connection to it broke."""
_BROKEN = re.compile(r"[Cc]onnection|[Pp]eer\b|[Ss]ocket|[Bb]roken pipe|gloo|NCCL|remote process")
"""What torch's collectives say where another rank is gone."""
_REPORT_SECONDS = 60.0
"""For rank 0 to write results.json and to print its line."""


class FailurePropagation(pl.Callback):
    """Ends all ranks of a run where one fails.

    The ranks talk through the store in which torch had them meet, on separate connections. A thread on each rank
    polls it, because the main thread may wait in a collective. The first `End` in the store counts for all ranks.
    """

    def __init__(self) -> None:
        self.write_end: Callable[[End], None] = lambda end: None
        """Writes results.json where the main thread cannot."""
        self.dead_loader: str | None = None
        """The loader process whose death an exception comes from."""
        self.peer_ended = False
        """Whether the watcher interrupts the main thread, because another rank ended the run."""
        self._store: Any = None
        self._is_rank_0 = True
        self._ending = threading.Lock()  # held, for good, by the thread that ends the run: main or watcher
        self._main_ends = threading.Event()
        self._watcher: threading.Thread | None = None
        self._end_key = ""
        self._run_key, self._rank, self._world_size = "", 0, 1
        self._processes: dict[int, ProcessId] = {}
        self._second, self._reports_for_rank_0 = 1, False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Start the watcher, once the ranks have met."""
        if trainer.world_size == 1 or self._store is not None:
            return
        import torch.distributed as dist

        store: Any = dist.distributed_c10d._get_default_store()
        # Every rank makes equally many runs, so the number is the same on all ranks.
        number = store.add(f"dcnlab/runs/{trainer.global_rank}", 1)
        self._run_key, self._rank, self._world_size = f"dcnlab/run/{number}", trainer.global_rank, trainer.world_size
        self._second = _second(trainer)
        self._end_key, self._is_rank_0 = f"dcnlab/end/{number}", trainer.is_global_zero
        self._store = store.clone()
        store.set(f"{self._run_key}/process/{self._rank}", json.dumps(asdict(ProcessId.current())))
        self._watcher = threading.Thread(target=self._watch, args=(store.clone(),), daemon=True, name="peers")
        self._watcher.start()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Learn the ranks' process numbers while rank 0, which has the store, is alive; all ranks have set theirs."""
        self._learn_processes(self._store)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Learn the ranks' process numbers, as at the start of a fit."""
        self._learn_processes(self._store)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Find a loader's death now, before Lightning ends all loaders."""
        self.dead_loader = dead_loader(exception, trainer.global_rank)

    def loader_death(self, error: BaseException, rank: int) -> str | None:
        """The loader process whose death an exception comes from, see `dead_loader`.

        torch raises it in any code that runs when the process dies: also between two loops of the Trainer, which then
        calls no `on_exception`.
        """
        if self.dead_loader is None and str(error).startswith("DataLoader worker"):
            self.dead_loader = dead_loader(error, rank)
        return self.dead_loader

    def start_ending(self) -> None:
        """Have the main thread end the run, and the watcher stop."""
        self._ending.acquire()
        self._main_ends.set()
        if self._store is not None:
            with suppress(RuntimeError):  # rank 0 is gone
                self._store.set(f"{self._run_key}/out/{self._rank}", "yes")

    def close(self) -> None:
        """Wait for the watcher: Python must not exit while a thread is inside torch's store."""
        if self._watcher is not None:
            self._watcher.join(_GONE_SECONDS)

    @property
    def ending(self) -> bool:
        """Whether a thread is ending the run."""
        return self._ending.locked()

    def agree(self, end: End) -> End:
        """The end of the whole run: `end`, unless another rank reported one before, or was killed."""
        if self._store is None:
            return end
        broken = end.kind == "bug" and _BROKEN.search(end.reason) is not None
        deadline = time.monotonic() + (_DEATH_SECONDS if broken else 0)
        try:
            while end.kind in ("bug", "interrupted") and not self._store.check([self._end_key]):
                death = self._dead_rank(self._store)
                if death is not None or time.monotonic() >= deadline:
                    end = death or end
                    break
                time.sleep(_POLL_SECONDS / 5)
            agreed = self._store.compare_set(self._end_key, "", json.dumps(asdict(end)))
        except RuntimeError:  # rank 0 is gone, and the store with it
            if not broken:
                return end
            self._reports_for_rank_0 = self._rank == self._second
            return self._killed(0)
        return End(**json.loads(agreed))

    def reports(self) -> bool:
        """Whether this rank prints why the run ended; ranks other than 0 first wait until rank 0 has written it."""
        if self._store is None or self._is_rank_0:
            return True
        deadline = time.monotonic() + _REPORT_SECONDS
        while time.monotonic() < deadline:
            try:
                if self._store.check([f"{self._end_key}/written"]):
                    return False
            except RuntimeError:  # rank 0 is gone
                return self._reports_for_rank_0
            time.sleep(_POLL_SECONDS)
        return True

    def written(self) -> None:
        """Tell the other ranks that rank 0 has written results.json."""
        if self._store is not None and self._is_rank_0:
            self._store.set(f"{self._end_key}/written", "yes")

    def _dead_rank(self, store: Any) -> End | None:
        """The end where a rank of this machine died without reporting one."""
        self._learn_processes(store)
        machine = self._processes[self._rank].machine
        for rank, process in list(self._processes.items()):
            dead = process.machine == machine and not process.alive
            if dead and not store.check([f"{self._run_key}/out/{rank}"]):
                return self._killed(rank)
        return None

    def _learn_processes(self, store: Any) -> None:
        """Read the processes of the ranks that have set theirs."""
        for rank in range(self._world_size if store is not None else 0):
            key = f"{self._run_key}/process/{rank}"
            if rank not in self._processes and store.check([key]):
                self._processes[rank] = ProcessId(**json.loads(store.get(key)))

    def _killed(self, rank: int) -> End:
        """The end of a rank that died without reporting one; how it died may show a moment after its sockets closed."""
        process = self._processes.get(rank)
        here = process is not None and process.machine == ProcessId.current().machine
        deadline = time.monotonic() + _DEATH_SECONDS
        while here and process is not None and process.alive and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS / 5)
        number = process.signal if process is not None else None
        how = f"was {ending(-number)}" if number else f"is gone, as if {ending(-signal.SIGKILL)}"
        return killed(rank, process.number if process is not None else None, how)

    def _watch(self, store: Any) -> None:
        """Poll for an end that another rank reported, and for dead ranks; runs in the watcher."""
        try:
            while not store.check([self._end_key]):
                if self._main_ends.wait(_POLL_SECONDS):
                    return
                death = self._dead_rank(store)
                if death is not None:
                    store.compare_set(self._end_key, "", json.dumps(asdict(death)))
            end = End(**json.loads(store.get(self._end_key)))
        except RuntimeError:  # rank 0 is gone, and nobody can report an end any more
            if not self._main_ends.wait(_GONE_SECONDS) and self._ending.acquire(blocking=False):
                end = self._killed(0)
                if self._rank == self._second:
                    say(f"dcnlab: {end.text}", file=sys.stderr, flush=True)
                os._exit(end.exit_status)
            return
        if not self._main_ends.is_set():
            self._end_main_thread(end)

    def _end_main_thread(self, end: End) -> None:
        """Interrupt the main thread; where a collective blocks it, end the process from here."""
        self.peer_ended = True
        os.kill(os.getpid(), signal.SIGTERM)  # interrupts Python code, but no collective
        if self._main_ends.wait(_PATIENCE_SECONDS) or not self._ending.acquire(blocking=False):
            return
        if self._is_rank_0:
            self.write_end(end)
            if end.text:
                say(f"dcnlab: {end.text}", sys.stderr, flush=True)
            self.written()
        else:
            self.reports()  # waits for rank 0
        os._exit(end.exit_status)


def _second(trainer: pl.Trainer) -> int:
    """The rank that reports the death of rank 0: the next one, or the first of another machine.

    Ranks that rank 0 has started on its own machine die with it.
    """
    environment = getattr(trainer.strategy, "cluster_environment", None)
    started = trainer.num_nodes > 1 and isinstance(environment, LightningEnvironment)
    return trainer.num_devices if started else 1
