"""A trial dies with the sweep that started it, even where the sweep is killed without a chance to say so."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PARENT = "DCNLAB_PARENT"
"""Environment variable with the process id of the sweep; set for its trials."""

_PR_SET_PDEATHSIG = 1


def hold() -> None:
    """Ask the system to kill this process when its parent ends, where the parent is a sweep.

    The processes that a trial starts in turn, one a GPU, hold on to the trial in the same way.
    """
    parent = os.environ.get(PARENT)
    if parent is None or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):  # it ended before we asked
        sys.exit("the sweep that started this trial is gone")
    os.environ[PARENT] = str(os.getpid())
