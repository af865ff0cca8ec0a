"""Several processes make one run: what ends one of them ends all, under one word, which the first one has.

Left to themselves the others wait in a collective for the one that is gone, or complain of its silence instead.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import pytorch_lightning as pl

from dcnlab.data.text import say

_LOOK_SECONDS = 0.25
_PATIENCE_SECONDS = 3.0
"""For the main thread to come out of what it waits for."""
_GONE_SECONDS = 20.0
"""For a process to end by itself after the first one, which may just have been quicker."""
_FIRST_SECONDS = 60.0
"""For the first process to write what it has, and to say it."""


@dataclass(frozen=True)
class End:
    """Why a run ended before it was finished."""

    kind: str
    """mend, which the user can | bug | interrupted | time limit."""
    text: str = ""
    reason: str = ""
    """As results.json has it; empty where the run did not fail."""

    @property
    def status(self) -> int:
        """The exit status of the command."""
        return {"mend": 2, "bug": 1}.get(self.kind, 130)


class Peers(pl.Callback):
    """The processes of a run, of which each watches what the others say.

    They talk through the store that torch made for them to meet, on connections of their own.
    """

    def __init__(self) -> None:
        self.last_words: Callable[[End], None] = lambda end: None
        """Writes and says what the run came to, where the main thread cannot."""
        self._store: Any = None
        self._first = True
        self._turn = threading.Lock()  # to end the run: the main thread's or the watching one's, for good
        self._out = threading.Event()  # the main thread has it
        self._watching: threading.Thread | None = None
        self._key = ""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Begin to watch, once the processes have met."""
        if trainer.world_size == 1 or self._store is not None:
            return
        import torch.distributed as dist

        store: Any = dist.distributed_c10d._get_default_store()
        # Every process makes equally many runs: the number is the same in all of them.
        number = store.add(f"dcnlab/runs/{trainer.global_rank}", 1)
        self._key, self._first, self._store = f"dcnlab/end/{number}", trainer.is_global_zero, store.clone()
        self._watching = threading.Thread(target=self._watch, args=(store.clone(),), daemon=True, name="peers")
        self._watching.start()

    def take_turn(self) -> None:
        """Have the main thread end the run, and the watching one watch no longer."""
        self._turn.acquire()
        self._out.set()

    def close(self) -> None:
        """Wait for the watching thread: Python must not end while it is within torch's store."""
        if self._watching is not None:
            self._watching.join(_GONE_SECONDS)

    @property
    def ending(self) -> bool:
        """Whether a thread is at it."""
        return self._turn.locked()

    def agree(self, end: End) -> End:
        """What ended the run: `end`, unless another process has said something before."""
        if self._store is None:
            return end
        try:
            said = self._store.compare_set(self._key, "", json.dumps(asdict(end)))
        except RuntimeError:  # the first process is gone, and the store with it
            return end
        return End(**json.loads(said))

    def speaks(self) -> bool:
        """Whether this process is to say why the run ended; the others wait until the first one has written it."""
        if self._store is None or self._first:
            return True
        deadline = time.monotonic() + _FIRST_SECONDS
        while time.monotonic() < deadline:
            try:
                if self._store.check([f"{self._key}/written"]):
                    return False
            except RuntimeError:  # it is gone
                return False
            time.sleep(_LOOK_SECONDS)
        return True

    def written(self) -> None:
        """Say that the first process has written what the run came to."""
        if self._store is not None and self._first:
            self._store.set(f"{self._key}/written", "yes")

    def _watch(self, store: Any) -> None:
        try:
            while not store.check([self._key]):
                if self._out.wait(_LOOK_SECONDS):
                    return
            end = End(**json.loads(store.get(self._key)))
        except RuntimeError:  # the first process is gone: what is left of the run waits for nothing
            if not self._out.wait(_GONE_SECONDS) and self._turn.acquire(blocking=False):
                os._exit(1)
            return
        if self._out.is_set():
            return
        os.kill(os.getpid(), signal.SIGTERM)  # brings the main thread out of Python, but not out of a collective
        if self._out.wait(_PATIENCE_SECONDS) or not self._turn.acquire(blocking=False):
            return
        if self._first:
            self.last_words(end)
            if end.text:
                say(f"dcnlab: {end.text}", sys.stderr, flush=True)
            self.written()
        else:
            self.speaks()
        os._exit(end.status)
