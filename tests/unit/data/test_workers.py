"""Loader processes: no more than the CPUs and the shared memory serve, and a line where they are fewer."""

import os
import subprocess
import sys
import types

import pytest
import torch
from command_line import complaints, dcnlab, environment
from processes import GUARD
from torch.utils.data import Dataset

from dcnlab.data import workers
from dcnlab.data.module import SplitsDataModule

MIB = 2**20


class Images(Dataset):
    """Images of a MiB each, the third of two, and the fourth broken."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        if index == 3:
            raise ValueError("broken")
        return torch.zeros(2 * MIB if index == 2 else MIB, dtype=torch.uint8), 1


def choose(monkeypatch, wanted, free, batch_size=8, ranks=1, cpus=4):
    monkeypatch.setattr(workers, "cpus", lambda: cpus)
    monkeypatch.setattr(os, "statvfs", lambda path: types.SimpleNamespace(f_bavail=free // 4096, f_frsize=4096))
    return workers.choose(wanted, Images(), range(4), batch_size, ranks)


@pytest.mark.parametrize(
    ("wanted", "free", "ranks", "taken"),
    [
        (2, 2**40, 1, 2),
        (2, 97 * MIB, 1, 2),  # six batches of eight images of two MiB are 96
        (2, 95 * MIB, 1, 1),
        (2, 95 * MIB, 2, 0),
        (1, 65 * MIB, 1, 1),
        (1, 63 * MIB, 1, 0),
        (4, 64 * 1024, 1, 0),
        (0, 0, 1, 0),
    ],
)
def test_loader_workers_are_limited_by_shared_memory(monkeypatch, wanted, free, ranks, taken):
    """/dev/shm is divided among the ranks; without room the main process loads."""
    count, note = choose(monkeypatch, wanted, free, ranks=ranks)
    assert count == taken
    assert (note is None) == (taken == wanted)
    if note is not None:
        assert note.startswith(f"data.workers is {wanted}, and /dev/shm has ")
        assert ("taking 1" if taken else "loading in the training process") in note
        assert "\n" not in note


@pytest.mark.parametrize(
    ("wanted", "cpus", "ranks", "taken"),
    [(3000, 2, 1, 16), (16, 1, 1, 16), (17, 1, 1, 16), (64, 16, 1, 64), (65, 16, 1, 64), (64, 64, 8, 32)],
)
def test_loader_workers_are_limited_by_the_cpus(monkeypatch, wanted, cpus, ranks, taken):
    """3000 workers on 2 CPUs become 16 with one line; up to the limit nothing changes."""
    count, note = choose(monkeypatch, wanted, 2**50, ranks=ranks, cpus=cpus)
    assert count == taken
    said = f"data.workers is {wanted}; taking {taken}, as this process may use {cpus} CPUs"
    assert note == (None if taken == wanted else said)


def test_loaders_use_the_reduced_worker_count(monkeypatch, caplog):
    """Too little shared memory gives loaders without workers and one warning for all of them."""
    monkeypatch.setattr(workers, "shared_memory", lambda: 2**16)
    data = SplitsDataModule(Images(), Images(), Images(), ["a"], batch_size=2, workers=2)
    loaders = data.val_dataloader(), data.test_dataloader()
    assert [loader.num_workers for loader in loaders] == [0, 0]
    assert [record.getMessage()[:32] for record in caplog.records] == ["warning: data.workers is 2, and "]


def test_a_small_shared_memory_loads_in_the_main_process(tiny):
    """With a /dev/shm of 64 KiB the run finishes and warns once, instead of a bus error."""
    command = f"mount -t tmpfs -o size=64k tmpfs /dev/shm && exec {sys.executable} -P -m dcnlab fit tiny.yaml id=one"
    tried = subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"], capture_output=True)
    if tried.returncode:
        pytest.skip(f"mounting a small /dev/shm is not permitted: {tried.stderr.decode().strip()}")
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", f"{command} data.workers=2 logger.wandb=false"],
        capture_output=True,
        text=True,
        timeout=GUARD,
        env=environment(),
    )
    assert (done.returncode, done.stdout) == (0, "runs/tiny/one\n"), done.stderr
    [line] = complaints(done.stderr)
    assert line.startswith("warning: data.workers is 2, and /dev/shm has 64.0 KiB free of the ")
    assert "loading in the training process" in line


@pytest.mark.slow
def test_three_thousand_loaders_are_few_processes(tiny):
    """3000 processes would exhaust the machine; the run finishes with one warning."""
    done = dcnlab("fit", tiny, "id=one", "data.workers=3000", "data.val=null", "logger.wandb=false")
    assert (done.returncode, done.stdout) == (0, "runs/tiny/one\n"), done.stderr
    assert "warning: data.workers is 3000; taking " in done.stderr
