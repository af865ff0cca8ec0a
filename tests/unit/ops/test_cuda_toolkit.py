"""CuPy beside torch: missing, for another CUDA, installed twice; and GPUs that are not supported."""

from __future__ import annotations

import sys
import warnings

import pytest
import torch

from dcnlab.cli import doctor_gpu
from dcnlab.ops.cuda import toolkit

CUPY_IS_FOR = "cupy_backends.cuda.api"


@pytest.fixture(autouse=True)
def _anew(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(toolkit, "installed", lambda: ["cupy-cuda13x 14.2.0"])
    toolkit._compare.cache_clear()
    yield
    toolkit._compare.cache_clear()


@pytest.mark.parametrize(
    ("cuda_version", "wheel"), [("13.0", "cupy-cuda13x"), ("12.6", "cupy-cuda12x"), (None, "cupy-cuda13x")]
)
def test_without_cupy_the_error_says_what_to_install(monkeypatch, cuda_version, wheel):
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setattr(torch.version, "cuda", cuda_version)
    with pytest.raises(
        ImportError, match=f"^dcnlab's operators on CUDA tensors need CuPy: pip install {wheel} "
    ) as caught:
        toolkit.import_cupy()
    assert "\n" not in str(caught.value)


def test_cupy_for_another_cuda_warns_once_if_it_compiles(monkeypatch, recwarn):
    """The warning holds the commands that install the right CuPy."""
    pytest.importorskip("cupy")
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(toolkit, "nvrtc_problem", lambda: None)
    for _ in range(2):
        toolkit.import_cupy()
    (line,) = [str(warning.message) for warning in recwarn.list]
    repair = "pip uninstall -y cupy-cuda13x && pip install cupy-cuda12x"
    assert line == f"torch is built for CUDA 12.8, CuPy for CUDA 13: {repair}"


def test_cupy_for_another_cuda_is_refused_at_first_launch(monkeypatch):
    """Where CuPy cannot load its NVRTC, one line names torch's CUDA version and CuPy's."""
    pytest.importorskip("cupy")
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(toolkit, "nvrtc_problem", lambda: "NVRTC does not load through CuPy: no libnvrtc.so.13")
    with pytest.raises(ImportError, match=r"^torch is built for CUDA 12\.8, CuPy for CUDA 13: .*libnvrtc") as caught:
        toolkit.import_cupy()
    assert "\n" not in str(caught.value)


def test_cupy_for_torchs_cuda_gives_no_warning():
    """A matching CuPy imports silently."""
    pytest.importorskip("cupy")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        toolkit.import_cupy()
    assert toolkit.mismatch() is None


def test_two_cupy_installs_name_the_command_that_repairs(monkeypatch):
    """The command removes both packages and installs the one for torch's CUDA."""
    pytest.importorskip("cupy")
    monkeypatch.setattr(toolkit, "installed", lambda: ["cupy-cuda13x 14.2.0", "cupy-cuda12x 14.2.0"])
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    assert toolkit.mismatch() == (
        "CuPy is installed 2 times, as cupy-cuda13x and cupy-cuda12x, one over the other: "
        "pip uninstall -y cupy-cuda13x cupy-cuda12x && pip install cupy-cuda12x"
    )


def test_torch_without_cuda_fits_every_cupy(monkeypatch):
    """A CPU build of torch has no CUDA version that could differ."""
    monkeypatch.setattr(torch.version, "cuda", None)
    assert toolkit.mismatch() is None


def test_amd_gpus_are_refused_before_cupy_is_imported(monkeypatch):
    """With torch for ROCm the error names the supported devices, not the missing CuPy."""
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", "6.4.43482")
    with pytest.raises(RuntimeError, match=r"^AMD GPUs are not supported \(torch is built for ROCm 6\.4\.43482\)") as e:
        toolkit.import_cupy()
    assert "NVIDIA GPUs of compute capability 7.5 (Turing) or newer, and CPUs" in str(e.value)


def test_doctor_reports_each_cupy_state_in_one_line(monkeypatch):
    """Right, mismatched and missing CuPy each give one line of the doctor."""
    pytest.importorskip("cupy")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert ("ok", "cupy-cuda13x 14.2.0") in doctor_gpu.gpus()
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    assert ("FAILED", toolkit.mismatch()) in doctor_gpu.gpus()
    monkeypatch.setattr(toolkit, "installed", lambda: [])
    missing = "cupy is not installed; CUDA tensors need it: pip install cupy-cuda12x"
    assert ("--", missing) in doctor_gpu.gpus()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert ("FAILED", missing) in doctor_gpu.gpus()
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert doctor_gpu.gpus() == [("--", toolkit.amd_problem())]
    assert {mark for mark, _ in doctor_gpu.operators()} == {"ok"}  # on the CPU alone
