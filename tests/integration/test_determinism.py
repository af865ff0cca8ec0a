"""trainer.deterministic gives the same weights twice, bit for bit, through the deformable operators; nothing warns."""

import warnings
from pathlib import Path

import pytest
import torch
from small_experiments import EXPERIMENTS, write_data

from dcnlab.config.load import load_experiment
from dcnlab.training.run import fit


@pytest.fixture
def experiments(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_data()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("accelerator", ["cpu", pytest.param("gpu", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_deterministic_run_gives_the_same_weights_twice(experiments, name, accelerator):
    """trainer.deterministic=true on the CPU and the GPU, for each kind of task."""
    if accelerator == "gpu" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    options = ["trainer.deterministic=true", f"trainer.accelerator={accelerator}", "trainer.devices=1"]
    options += [
        "trainer.max_steps=4",
        "trainer.threads=2",
        "data.batch_size=2",
        "trainer.effective_batch=4",
        "model.modulated=true",
    ]
    ends = []
    for number in (1, 2):
        torch.manual_seed(number)  # what was drawn before makes no difference
        torch.rand(number)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            # Of Lightning's, about itself: tracking.quiet puts its own filters before this one.
            folder = fit(load_experiment(f"{name}.yaml", [*options, f"id=run{number}"]))
        assert torch.are_deterministic_algorithms_enabled()
        ends.append(torch.load(folder / "checkpoints/last.ckpt", weights_only=True, map_location="cpu"))
    weights, again = (end["state_dict"] for end in ends)
    assert weights.keys() == again.keys()
    assert [key for key in weights if not torch.equal(weights[key], again[key])] == []
    assert any("offset" in key and bool(value.any()) for key, value in weights.items())  # and offsets have learned
    results = [(Path("runs") / name / f"run{number}" / "metrics.csv").read_text() for number in (1, 2)]
    assert results[0] == results[1]
