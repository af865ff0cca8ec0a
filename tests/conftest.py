"""What tests of several folders share: an experiment that takes seconds, and the operators' oracle."""

import os
from pathlib import Path

import pytest
from locations import SHARED
from small_experiments import TINY

GOLDENS = SHARED / "goldens"


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """An experiment file whose run takes seconds, in an empty current folder."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("WANDB_", "DCNLAB_"))]:
        monkeypatch.delenv(name)
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return str(path)


@pytest.fixture(scope="session")
def goldens() -> Path:
    """The folder of arrays from the authors' kernels."""
    if not GOLDENS.is_dir():
        pytest.skip("the golden arrays are not part of the project: ../shared/goldens is absent")
    return GOLDENS
