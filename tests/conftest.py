"""What tests of several folders share: an experiment that takes seconds, and the operators' oracle."""

import os
import random
import sys
from pathlib import Path

import numpy as np
import pytest
from locations import SHARED
from small_experiments import TINY, write_data

GOLDENS = SHARED / "goldens"


def pytest_collection_modifyitems(items):
    """Put first what waits longest, for wandb's agents, so that the other worker has work meanwhile."""
    items.sort(key=lambda item: item.path.name != "test_wandb_server.py")


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
def trained_tasks(tmp_path_factory) -> Path:
    """A folder with the data of `small_experiments` and, in runs/TASK/run, a trained run of each task; only read it."""
    import dcnlab
    from dcnlab.config.load import load_experiment

    folder = tmp_path_factory.mktemp("trained_tasks")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_data()
        for task in ("classification", "segmentation", "detection"):
            words = ["id=run", "data.val=null" if task != "classification" else "trainer.val_every=9"]
            dcnlab.fit(load_experiment(f"{task}.yaml", [*words, "trainer.max_steps=2", "trainer.effective_batch=2"]))
    return folder


@pytest.fixture(scope="session")
def goldens() -> Path:
    """The folder of arrays from the authors' kernels."""
    if not GOLDENS.is_dir():
        pytest.skip("the golden arrays are not part of the project: ../shared/goldens is absent")
    return GOLDENS


@pytest.fixture(autouse=True)
def same_random_numbers():
    """Draw the same numbers in a test that seeds nothing, whatever ran before it in this process."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(autouse=True)
def environment_restored():
    """Restore the environment after each test: a command run in this process, or a library, may set variables."""
    before = dict(os.environ)
    yield
    if os.environ != before:
        os.environ.clear()
        os.environ.update(before)
