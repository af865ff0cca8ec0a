"""How a process died: its exit status or signal, the likely cause, and whether it was a loader or memory ran out."""

from __future__ import annotations

import multiprocessing.process
import os
import platform
import re
import signal
import time
from dataclasses import dataclass
from pathlib import Path

_DEATH_SECONDS = 3.0
"""From a broken connection until the process is dead: the system closes connections first."""

CAUSES = {
    "SIGKILL": "often the kernel's for want of memory",
    "SIGBUS": "often for want of room in /dev/shm",
    "SIGSEGV": "a crash in compiled code",
}
"""Likely cause of a process's death by a signal."""


def ending(status: int) -> str:
    """How a process ended, and the likely cause.

    Args:
        status: its exit status, or minus the number of the signal that killed it, as subprocess has it.
    """
    if status >= 0:
        return f"exit status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = "unknown"
    cause = CAUSES.get(name)
    return f"killed by signal {-status} ({name})" + (f", {cause}" if cause else "")


@dataclass(frozen=True)
class ProcessId:
    """Identifies a process even after its end, when another one may have its number."""

    machine: str
    """The machine's boot and its namespace of process numbers."""
    number: int
    started: str
    """Time of the start, in ticks since the boot."""

    @classmethod
    def current(cls) -> ProcessId:
        """This process."""
        try:
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            machine = f"{boot} {os.readlink('/proc/self/ns/pid')}"
        except OSError:
            machine = platform.node()
        return cls(machine, os.getpid(), _stat(os.getpid())[1])

    @property
    def alive(self) -> bool:
        """Whether it runs; only for processes of this machine."""
        if not Path("/proc/self/stat").exists():
            try:
                os.kill(self.number, 0)
            except OSError:
                return False
            return True
        state, started, _ = _stat(self.number)
        return started == self.started and state not in "ZX"

    @property
    def signal(self) -> int | None:
        """The signal that killed it, where the system still knows."""
        state, started, status = _stat(self.number)
        return status & 0x7F if state == "Z" and started == self.started and status & 0x7F else None


def _stat(number: int) -> tuple[str, str, int]:
    """State, start and wait status of a process; state X: no such process."""
    try:
        fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "X", "", 0
    return fields[0], fields[19], int(fields[49])


def dead_loader(error: BaseException, rank: int) -> str | None:
    """The loader process whose death caused an exception, and the signal; None for other errors.

    Args:
        error: raised in the training or the test.
        rank: of this process.
    """
    import torch

    if not isinstance(error, RuntimeError | OSError | EOFError):
        return None
    text = str(error)
    if not text.startswith("DataLoader worker (pid"):
        # A transfer that breaks off raises another error, a moment before the process is dead.
        deadline = time.monotonic() + (_DEATH_SECONDS if isinstance(error, ConnectionError | EOFError) else 0)
        try:
            while True:
                torch._C._error_if_any_worker_fails()
                if time.monotonic() >= deadline or not multiprocessing.process._children:  # type: ignore[attr-defined]
                    break
                time.sleep(0.05)
        except RuntimeError as failure:  # torch's handler of signals may raise it anywhere in the loop
            text = str(failure)
    match = re.match(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (?:is killed by signal: ([^.]+))?", text)
    if match is None:
        return None
    numbers = {signal.strsignal(number): number for number in signal.valid_signals()}
    number = numbers.get(match[2]) or _killed_by(match[1])
    return f"loader process {match[1]} of rank {rank} " + (
        f"was {ending(-number)}" if number else "ended before its time"
    )


def _killed_by(pids: str) -> int | None:
    """The signal that killed the first of some child processes, where Python still knows it; torch does not tell."""
    children = getattr(multiprocessing.process, "_dangling", ())
    codes = {str(child.pid): child.exitcode for child in list(children)}
    code = codes.get(pids.split(",")[0].strip())
    return -code if code is not None and code < 0 else None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, of a GPU or of this machine."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # torch raises these as plain RuntimeError.
    texts = (
        "DefaultCPUAllocator",
        "CUBLAS_STATUS_ALLOC_FAILED",
        "CUDNN_STATUS_ALLOC_FAILED",
        "cudaErrorMemoryAllocation",
    )
    return isinstance(error, RuntimeError) and any(text in str(error) for text in texts)
