"""Several processes make one run: what ends one of them ends all, under one word, which the first one has.

Left to themselves the others wait in a collective for the one that is gone, or complain of its silence instead.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.strategies import DDPStrategy

from dcnlab.io.errors import ConfigError
from dcnlab.io.text import one_line, say
from dcnlab.training.environment import ProcessId, ending

_LOOK_SECONDS = 0.25
_PATIENCE_SECONDS = 3.0
"""For the main thread to come out of what it waits for."""
_GONE_SECONDS = 20.0
"""For a process to end by itself after the first one, which may just have been quicker."""
_DEATH_SECONDS = 3.0
"""For a rank's death to be found, after a connection to it broke."""
_BROKEN = re.compile(r"[Cc]onnection|[Pp]eer\b|[Ss]ocket|[Bb]roken pipe|gloo|NCCL|remote process")
"""What torch's collectives say where another rank is gone."""
_FIRST_SECONDS = 60.0
"""For the first process to write what it has, and to say it."""
_SAY_SECONDS = {"machines": 5.0, "processes": 60.0}
"""That a process waits for others before it says so; those of its own machine may just take long to start."""
_TELL_SECONDS = 60.0
"""For a rank that fails before all have met to reach rank 0."""
_LISTEN_SECONDS = 10.0
"""That rank 0 waits for the others, to tell them that a rank failed before all met."""
_FAILED = "dcnlab/failed"
_CONNECT_SECONDS = 5.0
"""For one try to reach rank 0."""


@dataclass(frozen=True)
class End:
    """Why a run ended before it was finished."""

    kind: str
    """mend, which the user can | diverged | killed, as the system kills for want of memory | bug | interrupted | time
    limit."""
    text: str = ""
    reason: str = ""
    """As results.json has it; empty where somebody stopped the run."""

    @property
    def status(self) -> int:
        """The exit status of the command."""
        return {"mend": 2, "diverged": 2, "killed": 2, "bug": 1}.get(self.kind, 130)


class RankDied(RuntimeError):
    """A rank that this process started is gone before all ranks had met."""

    def __init__(self, end: End) -> None:
        super().__init__(end.reason)
        self.end = end


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
        self._run, self._rank, self._world = "", 0, 1
        self._ranks: dict[int, ProcessId] = {}
        self._speaks_for_rank_0 = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Begin to watch, once the processes have met."""
        if trainer.world_size == 1 or self._store is not None:
            return
        import torch.distributed as dist

        store: Any = dist.distributed_c10d._get_default_store()
        # Every process makes equally many runs: the number is the same in all of them.
        number = store.add(f"dcnlab/runs/{trainer.global_rank}", 1)
        self._run, self._rank, self._world = f"dcnlab/run/{number}", trainer.global_rank, trainer.world_size
        self._key, self._first, self._store = f"dcnlab/end/{number}", trainer.is_global_zero, store.clone()
        store.set(f"{self._run}/process/{self._rank}", json.dumps(asdict(ProcessId.own())))
        self._watching = threading.Thread(target=self._watch, args=(store.clone(),), daemon=True, name="peers")
        self._watching.start()

    def take_turn(self) -> None:
        """Have the main thread end the run, and the watching one watch no longer."""
        self._turn.acquire()
        self._out.set()
        if self._store is not None:
            with suppress(RuntimeError):  # rank 0 is gone
                self._store.set(f"{self._run}/out/{self._rank}", "yes")

    def close(self) -> None:
        """Wait for the watching thread: Python must not end while it is within torch's store."""
        if self._watching is not None:
            self._watching.join(_GONE_SECONDS)

    @property
    def ending(self) -> bool:
        """Whether a thread is at it."""
        return self._turn.locked()

    def agree(self, end: End) -> End:
        """What ended the run: `end`, unless another rank has said something before, or was killed."""
        if self._store is None:
            return end
        broken = end.kind == "bug" and _BROKEN.search(end.reason) is not None
        deadline = time.monotonic() + (_DEATH_SECONDS if broken else 0)
        try:
            while end.kind in ("bug", "interrupted") and not self._store.check([self._key]):
                death = self._death(self._store)
                if death is not None or time.monotonic() >= deadline:
                    end = death or end
                    break
                time.sleep(_LOOK_SECONDS / 5)
            said = self._store.compare_set(self._key, "", json.dumps(asdict(end)))
        except RuntimeError:  # rank 0 is gone, and the store with it
            if not broken:
                return end
            self._speaks_for_rank_0 = self._rank == 1
            return self._killed(0)
        return End(**json.loads(said))

    def _death(self, store: Any) -> End | None:
        """What there is to say of a rank of this machine that is gone and has not said why."""
        for rank in range(self._world):
            key = f"{self._run}/process/{rank}"
            if rank not in self._ranks and store.check([key]):
                self._ranks[rank] = ProcessId(**json.loads(store.get(key)))
        own = self._ranks[self._rank]
        for rank, process in list(self._ranks.items()):
            gone = process.machine == own.machine and not process.alive
            if gone and not store.check([f"{self._run}/out/{rank}"]):
                return self._killed(rank)
        return None

    def _killed(self, rank: int) -> End:
        """What there is to say of a rank that is gone."""
        process = self._ranks.get(rank)
        number = process.signal if process is not None else None
        how = f"was {ending(-number)}" if number else f"is gone, as if {ending(-signal.SIGKILL)}"
        return _killed(rank, process.number if process is not None else None, how)

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
                return self._speaks_for_rank_0
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
                death = self._death(store)
                if death is not None:
                    store.compare_set(self._key, "", json.dumps(asdict(death)))
            end = End(**json.loads(store.get(self._key)))
        except RuntimeError:  # the first process is gone: what is left of the run waits for nothing
            if not self._out.wait(_GONE_SECONDS) and self._turn.acquire(blocking=False):
                end = self._killed(0)
                if self._rank == 1:
                    say(f"dcnlab: {end.text}", file=sys.stderr, flush=True)
                os._exit(end.status)
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


def _killed(rank: int, process: int | None, how: str) -> End:
    """What there is to say of a rank that is gone."""
    reason = f"rank {rank}{'' if process is None else f' (process {process})'} {how}"
    return End("killed", f"{reason}; a smaller data.batch_size or fewer data.workers need less", reason)


def _dead_child(strategy: DDPStrategy) -> tuple[End, bool] | None:
    """What there is to say of a rank that this process started and that is gone, and whether a signal killed it."""
    for at, child in enumerate(getattr(strategy.launcher, "procs", [])):
        try:  # it stays a zombie, so that others can still look at it
            found = os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            continue
        if found is not None and found.si_status != 0:
            by_signal = found.si_code != os.CLD_EXITED
            how = f"was {ending(-found.si_status)}" if by_signal else f"ended with {ending(found.si_status)}"
            return _killed(strategy.global_rank + 1 + at, child.pid, how), by_signal
    return None


def _disarm_lightning() -> None:
    """Keep Lightning from killing this process without a word when one that it started is gone."""
    for thread in threading.enumerate():
        if thread.name == "child-process-observer":
            thread._child_processes = []  # type: ignore[attr-defined]


def watch_rendezvous(strategy: DDPStrategy, minutes: float) -> None:
    """Have the ranks of a run meet under our eyes, before torch has them meet in one call into C++.

    No signal ends that call, and it does not say what it waits for.

    Args:
        strategy: of the run's trainer.
        minutes: `trainer.rendezvous_minutes`.
    """
    begin = strategy.setup_distributed

    def setup_distributed() -> None:
        _disarm_lightning()
        with _all_ranks_here(strategy, minutes):
            try:
                begin()
            except RuntimeError as error:
                dead = _dead_child(strategy)
                if dead is None:
                    raise
                raise RankDied(dead[0]) from error

    strategy.setup_distributed = setup_distributed  # type: ignore[method-assign]


class _Meetings:
    """Whether the ranks of this process's runs have met, or know already that they will not."""

    met = False
    heard = False


def tell_those_who_wait(text: str, status: int, say: Callable[[], None]) -> None:
    """Tell the ranks that wait for this one that it failed before all met, and say it, once in all.

    Left to themselves they wait for `trainer.rendezvous_minutes`, where no launcher ends them.

    Args:
        text: what went wrong.
        status: exit status of the command.
        say: prints it.
    """
    where = None if _Meetings.met else _meeting_point()
    if where is None:
        # Where SLURM's variables are not understood, they are not understood by any of its tasks.
        if os.environ.get("SLURM_NTASKS", "1") == "1" or os.environ.get("SLURM_PROCID", "0") == "0" or _Meetings.met:
            say()
        return
    rank, world, address, port = where
    if _Meetings.heard:
        if rank == 0:
            say()
        return
    if rank == 0:
        say()
    _tell(rank, world, address, port, json.dumps({"rank": rank, "text": text, "status": status}), say)


def _tell(rank: int, world: int | None, address: str, port: int, message: str, say: Callable[[], None]) -> None:
    began, said, store = time.monotonic(), rank == 0, None
    while time.monotonic() - began < (_LISTEN_SECONDS if rank == 0 else _TELL_SECONDS):
        try:
            store = store or (_open(port) if rank == 0 else _connect(address, port))
            store.set(f"dcnlab/heard/{rank}", "yes")
            store.compare_set(_FAILED, "", message)
            if rank != 0 or (world is not None and all(store.check([f"dcnlab/heard/{at}"]) for at in range(world))):
                return
        except (OSError, RuntimeError):
            store = None
            if rank == 0:  # another program is there, or nobody can listen
                return
        if not said and time.monotonic() - began > _LISTEN_SECONDS:
            said = True
            say()
        time.sleep(_LOOK_SECONDS)
    if not said:
        say()


def _meeting_point() -> tuple[int, int | None, str, int] | None:
    """Rank, number of ranks where it is known, and where they meet; None where no launcher that we know is at work."""
    if "TORCHELASTIC_RUN_ID" in os.environ:  # its agents end the others
        return None
    try:
        if "SLURM_STEP_ID" in os.environ and int(os.environ.get("SLURM_NTASKS", "1")) > 1:
            from lightning_fabric.plugins.environments import SLURMEnvironment

            slurm = SLURMEnvironment(auto_requeue=False)
            return slurm.global_rank(), slurm.world_size(), slurm.main_address, slurm.main_port
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        world = int(os.environ["WORLD_SIZE"]) if "WORLD_SIZE" in os.environ else None
        rank = os.environ.get("RANK")
        if rank is None:  # of the first rank on each machine, and Lightning's others on this one
            rank = os.environ.get("LOCAL_RANK", "0")
            rank = os.environ.get("NODE_RANK", "0") if rank == "0" else rank
            if "NODE_RANK" not in os.environ:
                return None
        return None if world == 1 else (int(rank), world, address, port)
    except (KeyError, ValueError, AttributeError, RuntimeError):
        return None


@contextmanager
def _all_ranks_here(strategy: DDPStrategy, minutes: float) -> Iterator[None]:
    """Wait for all ranks, and keep rank 0's store open until torch's own connections stand.

    Raises:
        ConfigError: some do not come in time, or rank 0 cannot listen.
        RankDied: one of them is gone.
    """
    import torch.distributed as dist

    # torchrun's agents have met already, and share their store.
    if dist.is_initialized() or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == str(True):
        yield
        return
    meeting = _Meeting(strategy)
    began, said = time.monotonic(), strategy.local_rank != 0
    gone: float | None = None
    meeting.start()
    try:
        while meeting.is_alive():
            meeting.join(_LOOK_SECONDS)  # unlike torch's own wait, this lets Python's handlers of signals run
            waited = time.monotonic() - began
            dead = _dead_child(strategy)
            if dead is not None and meeting.is_alive():
                gone = gone or time.monotonic()
                # One that ended by itself has most likely left a word, which is about to be heard.
                if dead[1] or time.monotonic() - gone > _LISTEN_SECONDS:
                    raise RankDied(dead[0])
            if waited > 60 * minutes and meeting.is_alive():
                raise ConfigError(
                    f"{meeting.missing()} did not come within {minutes:g} minutes "
                    f"(trainer.rendezvous_minutes){meeting.hint()}"
                )
            if waited > _SAY_SECONDS[meeting.what] and not said and meeting.is_alive():
                said = True
                say(f"waiting for {meeting.missing()}{meeting.hint()}", file=sys.stderr, flush=True)
        if meeting.error is not None:
            raise meeting.error
        _Meetings.met = True
        yield
    finally:
        meeting.over.set()


class _Meeting(threading.Thread):
    """Brings this rank to the address where all meet, and counts who else is there.

    A thread, because torch's store blocks where something else answers at that address.
    """

    def __init__(self, strategy: DDPStrategy) -> None:
        super().__init__(daemon=True, name="rendezvous")
        environment = strategy.cluster_environment
        assert environment is not None
        self.address, self.port = environment.main_address, environment.main_port
        self.rank, self.world = strategy.global_rank, strategy.world_size
        self.machines, self.on_each = strategy.num_nodes, strategy.num_processes
        self.what = "machines" if self.machines > 1 else "processes"
        self.over = threading.Event()
        self.error: ConfigError | None = None
        self._server: Any = None
        self._absent = 1
        self._reason = ""

    def missing(self) -> str:
        """How many have not come, and where to: `1 of 2 machines at node01:29500`."""
        total = self.machines if self.machines > 1 else self.world
        return f"{self._absent} of {total} {self.what} at {self.address}:{self.port}"

    def hint(self) -> str:
        """What may be wrong with the address."""
        if self.machines > 1 and self.address in ("127.0.0.1", "localhost", "::1"):
            return "; no other machine can reach that: set MASTER_ADDR, MASTER_PORT and NODE_RANK on each"
        return f" ({self._reason})" if self._reason else ""

    def run(self) -> None:
        """Connect, again where the connection breaks, and look until all are there."""
        store: Any = None
        while not self.over.is_set() and self.error is None:
            try:
                if store is None:
                    store = self._connect()
                    store.set(f"dcnlab/here/{self.rank}", "yes")
                if store.check([_FAILED]):
                    self._hear(store)
                    return
                self._absent = sum(not store.check(keys) for keys in self._keys())
                if self._absent == 0:
                    return
            except (OSError, RuntimeError) as error:  # rank 0 is not there, or gone again
                store = None
                self._absent, self._reason = 1, one_line(error)
            self.over.wait(_LOOK_SECONDS)

    def _keys(self) -> list[list[str]]:
        """What each machine's ranks set; of a single machine, what each rank sets."""
        size = self.on_each if self.machines > 1 else 1
        return [[f"dcnlab/here/{rank}" for rank in range(at, at + size)] for at in range(0, self.world, size)]

    def _hear(self, store: Any) -> None:
        """Learn which rank failed before all met; rank 0 waits until the others know it too."""
        failure = json.loads(store.get(_FAILED))
        _Meetings.heard = True
        store.set(f"dcnlab/heard/{self.rank}", "yes")
        deadline = time.monotonic() + (_LISTEN_SECONDS if self.rank == 0 else 0)
        keys = [f"dcnlab/heard/{rank}" for rank in range(self.world)]
        while time.monotonic() < deadline and not all(store.check([key]) for key in keys):
            time.sleep(_LOOK_SECONDS)
        self.error = ConfigError(f"rank {failure['rank']}: {failure['text']}")

    def _connect(self) -> Any:
        """A connection to rank 0's store, which rank 0 opens."""
        from torch.distributed import DistNetworkError

        if self.rank == 0 and self._server is None:
            try:
                self._server = _open(self.port)
            except DistNetworkError:
                self.error = ConfigError(
                    f"MASTER_PORT is {self.port}, where rank 0 cannot listen; another program may: set a free port"
                )
                raise
        return self._server or _connect(self.address, self.port)


def _open(port: int) -> Any:
    """Rank 0's store; torch's own then shares its server, which listens at all of this machine's addresses."""
    from torch.distributed import TCPStore

    return TCPStore("localhost", port, is_master=True, multi_tenant=True, **_store_options())


def _connect(address: str, port: int) -> Any:
    """A connection to rank 0's store."""
    from torch.distributed import TCPStore

    with socket.create_connection((address, port), _CONNECT_SECONDS):
        pass  # tried here first, because torch reports each failure at length
    return TCPStore(address, port, is_master=False, **_store_options())


def _store_options() -> dict[str, Any]:
    return {"wait_for_workers": False, "timeout": timedelta(seconds=_CONNECT_SECONDS)}
