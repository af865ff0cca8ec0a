"""Terminates this process when its parent dies, even by SIGKILL (Linux PR_SET_PDEATHSIG)."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PARENT = "DCNLAB_PARENT"
"""Environment variable with the process id of the sweep; set for its trials."""

_FIRST = "DCNLAB_FIRST_PROCESS"
_PR_SET_PDEATHSIG = 1


def hold() -> None:
    """Ask the system to kill this process when its parent ends: a sweep, rank 0 of its run, or torchrun.

    The ranks that this process starts follow it in the same way.
    """
    sweep, local_rank = os.environ.get(PARENT), os.environ.get("LOCAL_RANK", "0")
    parent = sweep or (os.environ.get(_FIRST) if local_rank != "0" else None)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        parent = str(os.getppid())
    if parent is not None and sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(parent):  # it ended before this call
            sys.exit("the sweep that started this trial is gone" if sweep else "the process that started this is gone")
    if sweep is not None:
        os.environ[PARENT] = str(os.getpid())
    os.environ[_FIRST] = str(os.getpid())
