"""Reports a failure before all ranks have met, once, and tells the ranks that wait.

Without it they would wait for `trainer.rendezvous_minutes`, where no launcher ends them.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable

from dcnlab.training.distributed import slurm_variables
from dcnlab.training.distributed.rendezvous_store import (
    FAILED,
    LISTEN_SECONDS,
    POLL_SECONDS,
    Rendezvous,
    connect,
    open_store,
)

_TELL_SECONDS = 60.0
"""For a rank that fails to reach rank 0."""


def report(text: str, status: int, say: Callable[[], None]) -> None:
    """Report this rank's failure: printed by one rank, heard by all that wait for this one.

    Args:
        text: what went wrong.
        status: exit status of the command.
        say: prints it.
    """
    where = None if Rendezvous.met else _meeting_point()
    if where is None:
        # A mistake in SLURM's variables is the same for all of its tasks, so one of them prints it.
        one_task = "SLURM_STEP_ID" not in os.environ or os.environ.get("SLURM_PROCID", "0") == "0"
        if one_task or Rendezvous.met:
            say()
        return
    rank, world_size, address, port = where
    if rank == 0:
        say()
    if not Rendezvous.failure_known:
        message = json.dumps({"rank": rank, "text": text, "status": status})
        _tell(rank, world_size, address, port, message, say)


def _tell(rank: int, world_size: int | None, address: str, port: int, message: str, say: Callable[[], None]) -> None:
    """Put the failure into rank 0's store; print it here where rank 0 cannot be reached."""
    began, printed, store = time.monotonic(), rank == 0, None
    while time.monotonic() - began < (LISTEN_SECONDS if rank == 0 else _TELL_SECONDS):
        try:
            store = store or (open_store(port) if rank == 0 else connect(address, port))
            store.set(f"dcnlab/heard/{rank}", "yes")
            store.compare_set(FAILED, "", message)
            if rank != 0:
                return
            if world_size is not None and all(store.check([f"dcnlab/heard/{other}"]) for other in range(world_size)):
                return
        except (OSError, RuntimeError):
            store = None
            if rank == 0:  # another program uses the port, or the address is not this machine's
                return
        if not printed and time.monotonic() - began > LISTEN_SECONDS:
            printed = True
            say()
        time.sleep(POLL_SECONDS)
    if not printed:
        say()


def _meeting_point() -> tuple[int, int | None, str, int] | None:
    """Rank, world size where it is known, address and port of rank 0; None without a launcher that we know."""
    if "TORCHELASTIC_RUN_ID" in os.environ:  # its agents end the other ranks
        return None
    try:
        if slurm_variables.srun_tasks() > 1 and "NODE_RANK" not in os.environ:  # which ranks of one task have
            from dcnlab.training.distributed.slurm_tasks import SlurmTasks

            slurm = SlurmTasks()
            return slurm.global_rank(), slurm.world_size(), slurm.main_address, slurm.main_port
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        world_size = int(os.environ["WORLD_SIZE"]) if "WORLD_SIZE" in os.environ else None
        rank = os.environ.get("RANK")
        if rank is None:  # of the first rank on each machine, and of those that Lightning starts on this one
            rank = os.environ.get("LOCAL_RANK", "0")
            rank = os.environ.get("NODE_RANK", "0") if rank == "0" else rank
            if "NODE_RANK" not in os.environ:
                return None
        return None if world_size == 1 else (int(rank), world_size, address, port)
    except (KeyError, ValueError, AttributeError, RuntimeError):
        return None
