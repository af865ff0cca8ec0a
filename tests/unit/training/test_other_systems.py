"""What macOS lacks or measures otherwise, and a machine without CuPy: simulated, since the tests run on Linux."""

import os
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from command_line import environment as environment_of

from dcnlab.config.schema import TrainerConfig
from dcnlab.io import machine
from dcnlab.io.errors import ConfigError
from dcnlab.training import preflight, process_death
from dcnlab.training.build_trainer import _accelerator
from dcnlab.training.callbacks.cost import peak_resident_bytes

WITHOUT_CUPY = """
import sys
sys.modules["cupy"] = None  # an import of it raises ImportError
import torch
import dcnlab.cli.main
from dcnlab.nn import DeformConv2d
from dcnlab.ops import deform_roi_pool
images = torch.randn(1, 4, 8, 8, requires_grad=True)
DeformConv2d(4, 4, 3, padding=1)(images).sum().backward()
print(tuple(images.grad.shape))
"""


@pytest.fixture
def without_proc(monkeypatch):
    """No /proc and no /sys, as on macOS."""
    real, real_exists = Path.read_text, Path.exists
    hidden = ("/proc", "/sys")

    def read_text(path, *args, **kwargs):
        if str(path).startswith(hidden):
            raise FileNotFoundError(path)
        return real(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", read_text)
    monkeypatch.setattr(Path, "exists", lambda path: not str(path).startswith(hidden) and real_exists(path))
    monkeypatch.setattr(os, "readlink", lambda path: (_ for _ in ()).throw(FileNotFoundError(path)))


def test_cores_are_counted_without_an_affinity(without_proc, monkeypatch):
    """macOS has no sched_getaffinity: all cores count, and at least one."""
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 10)
    assert machine.cpus() == 10
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert machine.cpus() == 1


@pytest.mark.parametrize(("system", "unit"), [("darwin", 1), ("freebsd14", 1024)])
def test_peak_memory_is_in_bytes_on_every_system(without_proc, monkeypatch, system, unit):
    """getrusage gives bytes on macOS, and KiB on the other systems."""
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=3_000_000))
    assert peak_resident_bytes() == 3_000_000 * unit


def test_a_process_is_told_alive_without_proc(without_proc):
    """The process itself runs; a number that no process has does not."""
    this = process_death.ProcessId.current()
    assert this.alive
    assert not process_death.ProcessId(this.machine, 2**22 + 1, "").alive


@pytest.fixture
def apple(monkeypatch):
    """An Apple GPU, which torch knows and the operators do not."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)


def test_auto_takes_the_cpu_of_a_mac(apple):
    """Lightning's own auto would take the GPU, for which the operators have no kernels."""
    assert preflight.check_devices(TrainerConfig(), alone=True) == 1
    assert _accelerator(TrainerConfig()) == "cpu"
    assert _accelerator(TrainerConfig(accelerator="gpu")) == "gpu"


def test_the_gpu_of_a_mac_is_refused_in_one_line(apple):
    """The line says why, and what to take."""
    with pytest.raises(ConfigError, match="on Apple's, the operators have no kernels; take cpu or auto"):
        preflight.check_devices(TrainerConfig(accelerator="gpu"), alone=True)


def test_a_cpu_needs_no_cupy():
    """The commands import, and a deformable layer trains on the CPU, where CuPy cannot be imported."""
    command = [sys.executable, "-c", WITHOUT_CUPY]  # a new Python: what it imports is the point
    done = subprocess.run(command, env=environment_of(), capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "(1, 4, 8, 8)\n"), done.stderr
