"""What tests of whole runs share: an experiment that takes seconds."""

import os

import pytest

TINY = """
data: {train_length: 32, test_length: 40, batch_size: 16, image_size: 28}
model: {backbone: {name: resnet10_slim}}
trainer: {max_steps: 2, accelerator: cpu, threads: 1}
logger: {every: 1}
"""


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """An experiment file whose run takes seconds, in an empty current folder."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("WANDB_", "DCNLAB_"))]:
        monkeypatch.delenv(name)
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return str(path)
