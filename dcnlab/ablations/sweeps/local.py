"""Trials as child processes, a set of GPUs or a share of the cores each, that never outlive the sweep."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dcnlab.config import packaged
from dcnlab.io.files import open_regular
from dcnlab.training.distributed import parent_death

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
_ONE_RUNS_OWN = (
    *("WANDB_RUN_ID", "DCNLAB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"),
    # Not srun starts the processes of a trial, but the trial itself.
    *(f"SLURM_{name}" for name in ("NTASKS", "NPROCS", "NTASKS_PER_NODE", "PROCID", "LOCALID", "NODEID")),
)


@dataclass(frozen=True)
class Slot:
    """What one trial at a time computes on."""

    gpus: str | None
    """Its CUDA_VISIBLE_DEVICES; None leaves the variable as it is."""
    threads: int


@dataclass
class Child:
    """A running trial."""

    process: subprocess.Popen[bytes]
    slot: Slot
    started: float
    urged: float | None = None
    """When it was first asked to end, on the clock of `started`."""
    told: bool = False
    """Whether it was then told to."""

    @property
    def seconds(self) -> float:
        """How long it has been running."""
        return time.monotonic() - self.started


class Stopped(BaseException):
    """The sweep got a signal to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def start(arguments: Sequence[str], log: Path, slot: Slot, environment: dict[str, str]) -> Child:
    """Start `dcnlab ARGUMENTS` in a session of its own, its output in `log`.

    Call it from the main thread: the system ties a child's life to the thread that started it.
    """
    inherited = {name: value for name, value in os.environ.items() if name not in _ONE_RUNS_OWN}
    variables = inherited | dict.fromkeys(_THREAD_VARIABLES, str(slot.threads))
    if slot.gpus is not None:
        variables["CUDA_VISIBLE_DEVICES"] = slot.gpus
    variables |= {**environment, parent_death.PARENT: str(os.getpid())}
    # The children run the code that we run, however Python found it.
    variables["PYTHONPATH"] = os.pathsep.join(
        [str(packaged.PACKAGE.parent), *filter(None, [variables.get("PYTHONPATH")])]
    )
    with open_regular(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, "wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "dcnlab", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=variables,
            start_new_session=True,
        )
    return Child(process, slot, time.monotonic())


def urge(child: Child, patience: float = 20.0) -> None:
    """End a trial step by step, without a wait: call it again until the trial is gone.

    Asked to save and end first, as SLURM does before a time limit; after `patience` seconds told to end; then killed.
    """
    if child.urged is None:
        child.urged = time.monotonic()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(child.process.pid, signal.SIGUSR1)  # only rank 0, which has the others save too
        return
    waited = time.monotonic() - child.urged
    if waited > 2 * patience:
        clear(child)
    elif waited > patience and not child.told:
        child.told = True
        _signal_group(child, signal.SIGTERM)


def stop(children: Sequence[Child], patience: float = 20.0) -> None:
    """End the children and all that they started: asked first, so that they note the interruption, then killed."""
    for child in children:
        _signal_group(child, signal.SIGTERM)
    deadline = time.monotonic() + patience
    for child in children:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.process.wait(max(0.0, deadline - time.monotonic()))
    for child in children:
        clear(child)
        child.process.wait()


def clear(child: Child) -> None:
    """Kill what is left of a child's session, such as loader processes of a trial that crashed."""
    _signal_group(child, signal.SIGKILL)


def _signal_group(child: Child, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.process.pid, number)


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Turn Ctrl-C, SIGTERM and a closed terminal into `Stopped`, once."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def raise_once(number: int, frame: object) -> None:
        for other in numbers:
            signal.signal(other, signal.SIG_IGN)  # the children are about to be stopped; nothing may interrupt that
        raise Stopped(number)

    before = {number: signal.signal(number, raise_once) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def slots(jobs: int | None, devices: int, accelerator: str, cores: int, trials: int) -> list[Slot]:
    """How many trials run at once, and on what.

    Args:
        jobs: as many as the user asks for; None takes all GPUs, or a core each up to four.
        devices: GPUs of one trial.
        accelerator: auto, cpu or gpu, as the experiment says.
        cores: that this process may use.
        trials: no more slots than these are of use.
    """
    gpus = [] if accelerator == "cpu" else visible_gpus()
    sets = [",".join(gpus[at : at + devices]) for at in range(0, len(gpus) - devices + 1, devices)]
    count = jobs or len(sets) or min(cores, 4)
    count = max(1, min(count, trials))
    threads = max(1, cores // count)
    # More jobs than sets of GPUs share them in turn.
    return [Slot(sets[at % len(sets)] if sets else None, threads) for at in range(count)]


def visible_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES may be made of here; without a driver's device file torch need not be asked."""
    if not any(Path("/dev").glob("nvidia[0-9]*")) and not Path("/dev/dxg").exists():
        return []
    import torch

    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [name.strip() for name in listed.split(",")] if listed else None
    count = torch.cuda.device_count()
    return names[:count] if names else [str(index) for index in range(count)]
