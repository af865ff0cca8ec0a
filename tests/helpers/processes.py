"""Processes of a test: those of its folder, their children, and waiting for what they do."""

import os
import time
from pathlib import Path

from warm_python import NAME

GUARD = 600
"""Seconds after which a test stops waiting: they catch a hang, and measure nothing, however busy the machine is."""


def processes_of(folder):
    """Command lines of the processes that work in `folder`, but for this one."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            where, words = os.readlink(process / "cwd"), (process / "cmdline").read_bytes()
        except OSError:
            continue
        if where == str(folder) and int(process.name) != os.getpid() and words:
            found.append(words.replace(b"\0", b" ").decode())
    return found


def children_of(number):
    """Numbers of the processes that a process has started and that are still there, but for its warm Python."""
    children = map(int, Path(f"/proc/{number}/task/{number}/children").read_text().split())
    return [child for child in children if name_of(child) != NAME]


def name_of(number):
    """Name of a process in the system's lists; None when it is gone."""
    try:
        return Path(f"/proc/{number}/comm").read_text().strip()
    except OSError:
        return None


def await_(condition):
    """Wait until a condition holds; fail after `GUARD` seconds."""
    deadline = time.monotonic() + GUARD
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.02)


def alive(number):
    """Whether a process runs; one that has ended and waits to be noticed does not."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
