"""Terminates this process when its parent dies, even by SIGKILL (Linux PR_SET_PDEATHSIG)."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path

PARENT = "DCNLAB_PARENT"
"""Environment variable with the process id of the sweep; set for its trials."""

_FIRST = "DCNLAB_FIRST_PROCESS"
_PR_SET_PDEATHSIG = 1


_POLL_SECONDS = 1.0


def hold() -> None:
    """Ask the system to kill this process when its parent ends: a sweep, rank 0 of its run, or torchrun.

    The ranks that this process starts follow it in the same way.
    """
    sweep, local_rank = os.environ.get(PARENT), os.environ.get("LOCAL_RANK", "0")
    parent = sweep or (os.environ.get(_FIRST) if local_rank != "0" else None)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        parent = str(os.getppid())
    if sweep is None and "WANDB_SWEEP_PARAM_PATH" in os.environ and local_rank == "0":
        _follow_agent(torchrun=parent)
    if parent is not None and sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(parent):  # it ended before this call
            sys.exit("the sweep that started this trial is gone" if sweep else "the process that started this is gone")
    if sweep is not None:
        os.environ[PARENT] = str(os.getpid())
    os.environ[_FIRST] = str(os.getpid())


def _follow_agent(torchrun: str | None) -> None:
    """Have this trial end as by SIGTERM when the wandb agent that started it is gone.

    Args:
        torchrun: number of the process between the agent and this one; None where the agent is the parent.
    """
    if not sys.platform.startswith("linux"):
        return
    if torchrun is None:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        return
    agent = _parent_of(torchrun)

    def watch() -> None:
        while _parent_of(torchrun) == agent:
            time.sleep(_POLL_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(torchrun), signal.SIGTERM)  # torchrun hands it to all ranks

    threading.Thread(target=watch, daemon=True, name="agent").start()


def _parent_of(number: str) -> str | None:
    """Number of a process's parent; None where it is gone."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[1]
    except OSError:
        return None
