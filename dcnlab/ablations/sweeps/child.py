"""A trial as a child process that never outlives the sweep."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dcnlab.ablations.sweeps.stopping import Haste
from dcnlab.config import packaged
from dcnlab.io.files import open_regular
from dcnlab.training.distributed import parent_death, slurm_variables

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
_OF_ONE_RUN = (
    *("WANDB_RUN_ID", "DCNLAB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH"),
    # The trial itself starts its ranks, not srun.
    *("SLURM_NTASKS", "SLURM_NPROCS", "SLURM_NTASKS_PER_NODE", *slurm_variables.OF_TASK),
)


@dataclass(frozen=True)
class Slot:
    """GPUs and threads of one trial at a time."""

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
    """When it was first asked to end (SIGUSR1), on the clock of `started`."""
    told: bool = False
    """Whether it then got SIGTERM."""

    @property
    def seconds(self) -> float:
        """How long it has been running."""
        return time.monotonic() - self.started


def start(arguments: Sequence[str], log: Path, slot: Slot, environment: dict[str, str]) -> Child:
    """Start `dcnlab ARGUMENTS` in a new session, its output in `log`.

    Call it from the main thread: the system ties a child's life to the thread that started it.
    """
    inherited = {name: value for name, value in os.environ.items() if name not in _OF_ONE_RUN}
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
    """End a trial step by step; it returns at once, so call it again until the trial is gone.

    SIGUSR1 first, so that it saves a checkpoint, as SLURM does before a time limit; after `patience` seconds SIGTERM;
    after as many again SIGKILL.
    """
    if child.urged is None:
        child.urged = time.monotonic()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(child.process.pid, signal.SIGUSR1)  # rank 0 makes the other ranks save too
        return
    waited = time.monotonic() - child.urged
    if waited > 2 * patience:
        clear(child)
    elif waited > patience and not child.told:
        child.told = True
        _signal_group(child, signal.SIGTERM)


def stop(children: Sequence[Child], haste: Haste, patience: float = 60.0, hasty_patience: float = 10.0) -> None:
    """End the children and all that they started: asked first, so that they finish a step and save, then killed.

    Args:
        children: running trials.
        haste: where it is asked for, they are asked again, which ends them without saving.
        patience: seconds until they are killed.
        hasty_patience: seconds until they are killed after the haste.
    """
    for child in children:
        _signal_group(child, signal.SIGTERM)
    deadline, hurried = time.monotonic() + patience, False
    while time.monotonic() < deadline and any(child.process.poll() is None for child in children):
        if haste.asked and not hurried:
            deadline, hurried = time.monotonic() + hasty_patience, True
            for child in children:
                _signal_group(child, signal.SIGTERM)
        time.sleep(0.05)
    for child in children:
        clear(child)
        child.process.wait()


def clear(child: Child) -> None:
    """Kill the remaining processes of a child's session, such as loaders of a trial that crashed."""
    _signal_group(child, signal.SIGKILL)


def _signal_group(child: Child, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.process.pid, number)
