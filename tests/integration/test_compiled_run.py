"""`trainer.compile`: the training steps are compiled, and files and scores are those of a plain run."""

import json
from pathlib import Path

import pytest
import torch
from small_experiments import write_data
from torch import nn
from torch._dynamo.utils import counters

import dcnlab
from dcnlab.config.load import load_experiment
from dcnlab.config.schema import Config
from dcnlab.config.training_checks import COMPILE_MODES
from dcnlab.io.errors import ConfigError
from dcnlab.training import compilation
from dcnlab.training.export import export
from dcnlab.training.loggers.metrics_csv import read
from dcnlab.training.run import evaluate, resume

WORDS = (
    "trainer.max_steps=2",
    "trainer.effective_batch=null",
    "data.val=null",
    "logger.every=50",
    "logger.wandb=false",
)


class Narrow(nn.Module):
    """A backbone that compiles in seconds."""

    def __init__(self, config):
        super().__init__()
        self.channels, self.strides = {"res5": 4}, {"res5": 16}
        self.stem = nn.Conv2d(3, 4, 3, stride=16, padding=1)

    def forward(self, images):
        """Features of one stage."""
        return {"res5": self.stem(images).relu()}


@pytest.fixture
def shapes(tmp_path, monkeypatch):
    """The data of `small_experiments` in the current folder; torch.compile has compiled nothing yet."""
    monkeypatch.chdir(tmp_path)
    torch._dynamo.reset()
    counters.clear()
    write_data()
    yield
    torch._dynamo.reset()


@pytest.fixture
def calls(monkeypatch):
    """Calls of compiled graphs, by a backend that compiles nothing."""
    made = []

    def backend(graph, inputs):
        return lambda *arguments: made.append(graph) or graph(*arguments)

    monkeypatch.setattr(compilation, "BACKEND", backend)
    return made


def fit(task, run, *words, **backbone):
    config = load_experiment(f"{task}.yaml", [*WORDS, f"id={run}", *words])
    if backbone:
        config.model.backbone.name, config.model.deform_layers = backbone["class_"], 0
    return dcnlab.fit(config)


def weights(run):
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


def test_a_compiled_run_leaves_the_files_of_a_plain_one(shapes, monkeypatch):
    """torch's own backend: same names and weights, to rounding; it is loaded, scored and exported without."""
    monkeypatch.setattr("torch._inductor.config.compile_threads", 1)  # a pool of processes takes seconds to start
    monkeypatch.setattr("torch._inductor.config.cpp_cache_precompile_headers", False)  # so does a precompiled header
    words = ("data.batch_size=2", "data.val=test", "trainer.val_every=99")
    plain = fit("classification", "plain", *words, class_=Narrow)
    assert not counters["stats"]
    run = fit("classification", "compiled", *words, "trainer.compile=true", class_=Narrow)
    assert counters["stats"]["unique_graphs"] == 1
    torch.testing.assert_close(weights(run), weights(plain), rtol=1e-3, atol=1e-5)
    results = json.loads((run / "results.json").read_text())
    assert load_experiment(str(run / "config.yaml"), allow=[Narrow]).trainer.compile is True
    network = dcnlab.load(run, allow=[Narrow])
    assert not compilation.is_compiled(network)
    assert sorted(network.state_dict()) == sorted(weights(plain))
    assert len(list(dcnlab.predict(network, Path("shapes/JPEGImages/17.jpg")))) == 1
    assert evaluate(run, [], [Narrow]) == results["metrics"]
    export(run, "safetensors", allow=[Narrow])


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_every_step_calls_the_compiled_network(shapes, calls, task):
    """Two steps call it twice, and the test does not; it is resumed with and without."""
    run = fit(task, "run", "trainer.compile=true", "data.batch_size=2", "data.val=test", "trainer.val_every=99")
    assert len(calls) == 2 * len(set(calls))
    assert not [name for name in weights(run) if "_orig_mod" in name]
    trained = len(calls)
    resume(run, ["trainer.max_steps=3", "trainer.compile=false"])
    assert len(calls) == trained
    resume(run, ["trainer.max_steps=4", "trainer.compile=true"])
    assert len(calls) > trained


def test_of_a_detector_the_backbone_is_compiled(shapes, calls):
    """One graph per step; the losses are those of the plain network."""
    run = fit("detection", "run", "trainer.compile=true")
    assert len(calls) == 2
    plain = fit("detection", "plain")
    torch.testing.assert_close(weights(run), weights(plain))


def test_a_step_that_measures_offsets_runs_without(shapes, calls):
    """Steps 2 and 4 of 5 are logged, with the offsets of the deformable layer; the other three are compiled."""
    run = fit("segmentation", "run", "trainer.compile=true", "trainer.max_steps=5", "logger.every=2")
    assert len(calls) == 3
    rows = [row for row in read(run / "metrics.csv") if row.get("train/loss")]
    assert len(rows) == 2
    (name,) = [name for name in rows[0] if name.startswith("offsets/") and name.endswith("/mean")]
    assert all(row[name] != "" for row in rows)


def test_compiling_without_a_compiler_is_one_line(shapes, monkeypatch):
    """The error names the program and the package, and no folder is made."""
    monkeypatch.setenv("CXX", "g++-that-is-absent")
    with pytest.raises(ConfigError, match=r"trainer\.compile is True, .* g\+\+-that-is-absent is not installed"):
        fit("classification", "run", "trainer.compile=true")
    assert not Path("runs").exists()


def test_modes_are_those_of_torch(shapes):
    """A mode that torch does not know is refused by its name before the run."""
    import torch._inductor

    assert set(COMPILE_MODES) <= set(torch._inductor.list_mode_options())
    with pytest.raises(ConfigError, match=r"trainer\.compile is 'max-autotun'; nearest: max-autotune"):
        load_experiment("classification.yaml", ["trainer.compile=max-autotun"])
    assert Config().trainer.compile is False
