"""A loader process that was killed is named, also where its connections break before it is dead."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from processes import GUARD
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from dcnlab.config.load import load_experiment
from dcnlab.io.errors import ConfigError
from dcnlab.training import process_death
from dcnlab.training.distributed.failures import FailurePropagation
from dcnlab.training.process_death import dead_loader
from dcnlab.training.run import fit
from dcnlab.training.run_folder import RunFolder


def nothing_for_long(items):
    time.sleep(3600)


@pytest.fixture
def patient(monkeypatch):
    """A death that is late, on a busy machine, is waited for; by default three seconds."""
    monkeypatch.setattr(process_death, "_DEATH_SECONDS", GUARD)


@pytest.fixture
def hasty(monkeypatch):
    """Waiting fails the test."""
    monkeypatch.setattr(process_death.time, "sleep", lambda seconds: pytest.fail("it waits"))


@pytest.fixture
def loader():
    """A loader process that hands over nothing."""
    batches = iter(DataLoader(range(4), num_workers=1, collate_fn=nothing_for_long))
    (worker,) = batches._workers
    yield worker.pid
    worker.kill()
    worker.join()


@pytest.mark.parametrize("error", [ConnectionResetError(104, "Connection reset by peer"), EOFError()])
def test_a_loader_that_dies_after_its_pipe_is_named(loader, error, patient):
    """The connection breaks half a second before the process is dead."""
    timer = threading.Timer(0.5, os.kill, (loader, signal.SIGKILL))
    timer.start()
    try:
        said = dead_loader(error, 3)
    finally:
        timer.join()
    assert (
        said
        == f"loader process {loader} of rank 3 was killed by signal 9 (SIGKILL), often the kernel's for want of memory"
    )


def test_other_errors_do_not_wait_for_loaders(loader, hasty):
    """A full disk is reported at once, though loaders are alive."""
    assert dead_loader(OSError(28, "No space left on device"), 0) is None


def test_a_broken_connection_without_loaders_returns_at_once(hasty):
    """There is no process whose death could be waited for."""
    assert dead_loader(ConnectionResetError(104, "Connection reset by peer"), 0) is None


def test_a_killed_loader_is_named_after_a_broken_connection(tiny, monkeypatch, patient):
    """Lightning takes the loaders down before the run's end is written, so that they are looked at before."""
    killed = []

    def broken(batches):
        [worker] = batches._workers
        killed.append(worker.pid)
        threading.Timer(0.5, os.kill, (worker.pid, signal.SIGKILL)).start()
        raise ConnectionResetError(104, "Connection reset by peer")

    monkeypatch.setattr(_MultiProcessingDataLoaderIter, "_next_data", broken)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ConfigError, match=r"^loader process \d+ of rank 0 was killed by signal 9 ") as caught:
        fit(load_experiment(tiny, ["id=one", "logger.wandb=false", "data.workers=1"]))
    signal.signal(signal.SIGINT, before)
    assert f"loader process {killed[0]} of" in str(caught.value)
    assert RunFolder(Path("runs/tiny/one")).read_results()["status"] == "interrupted"


def test_a_death_between_two_loops_is_a_loaders_too():
    """torch raises it wherever the process is; other errors are no loader's death."""
    killed = RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
    said = FailurePropagation().loader_death(killed, 1)
    assert said.startswith("loader process 7 of rank 1 was killed by signal 9 (SIGKILL)")
    assert FailurePropagation().loader_death(RuntimeError("shapes do not fit"), 1) is None
