"""Somebody else's data set, detector, backbone, surgery, callback and logger, without a change to dcnlab's files."""

import json
import os
import sys
from pathlib import Path

import pytest
import yaml
from toy_package import write_toys

import dcnlab
from dcnlab.ablations.tables import run_record
from dcnlab.cli import main
from dcnlab.config.load import load_experiment, load_run
from dcnlab.config.schema import BackboneConfig, Config, DataConfig, LoggerConfig, ModelConfig, TrainerConfig
from dcnlab.io.errors import ConfigError
from dcnlab.training.run import evaluate, resume


@pytest.fixture
def toys(tmp_path, monkeypatch):
    """The package can be imported, has not been yet, and the current folder holds its experiments."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    forget(monkeypatch)
    write_toys(tmp_path)
    yield
    forget(monkeypatch)


def forget(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "toys"]:
        monkeypatch.delitem(sys.modules, name)


def tiny_config(**sections):
    trainer = TrainerConfig(max_steps=2, accelerator="cpu", threads=1)
    return Config(trainer=trainer, logger=LoggerConfig(wandb=False, every=1), **sections)


@pytest.mark.usefixtures("toys")
def test_python_classes_train_with_a_callback_and_logger():
    """A run of toys alone is trained and scored; the callback is called, and the logger gets the losses."""
    from toys.parts import Count, Memory, Small, Stripes

    data = DataConfig(name=Stripes, batch_size=4)
    counted, memory = Count(), Memory()
    config = tiny_config(data=data, model=ModelConfig(backbone=BackboneConfig(name=Small)))
    run = dcnlab.fit(config, callbacks=[counted], loggers=[memory])
    results = json.loads((run / "results.json").read_text())
    assert results["status"] == "finished"
    assert "top1" in results["metrics"]
    assert counted.steps == 2
    assert {"train/loss", "test/top1"} <= memory.keys
    assert yaml.safe_load((run / "config.yaml").read_text())["data"]["name"] == "toys.parts:Stripes"
    assert dcnlab.load(run, allow=[Stripes, Small]).classes == ["across", "down"]


@pytest.mark.usefixtures("toys")
def test_a_detector_by_name_is_trained_scored_and_predicts():
    """It learns which of two boxes it sees: AP 100 in results.json, and a box for an image."""
    run = dcnlab.fit(load_experiment("detect.yaml", ["trainer.max_steps=20", "id=run"]))
    results = json.loads((run / "results.json").read_text())
    assert results["metrics"]["ap50"] == pytest.approx(100)
    from toys.parts import Stripes

    image = Stripes("test", DataConfig())[1][0]
    config = load_run(run, allow=["toys"])
    raw = (image * 1.0).clamp(0, 1)
    (found,) = dcnlab.predict(run, raw, allow="toys")
    assert found.boxes.tolist() == [[0, 0, 8, 8]]
    assert config.model.name == "toys.parts:Guess"
    assert [row["bbox"] for row in json.loads((run / "detections.json").read_text())] == [[0, 0, 8, 8]] * 8


@pytest.mark.usefixtures("toys")
def test_a_run_imports_nothing_by_itself(monkeypatch):
    """evaluate, load, resume and a fit of its config.yaml refuse, and say what to allow; tables read it."""
    run = dcnlab.fit(load_experiment("classify.yaml", ["id=run"]))
    for call in (
        lambda: evaluate(run, []),
        lambda: dcnlab.load(run),
        lambda: next(dcnlab.predict(run, "x.png")),
        lambda: resume(run, ["trainer.max_steps=4"]),
        lambda: load_experiment(str(run / "config.yaml"), ["id=other"]),
    ):
        forget(monkeypatch)
        with pytest.raises(ConfigError) as error:
            call()
        assert "data.name is 'toys.parts:Stripes', code from outside dcnlab" in str(error.value)
        assert "--allow toys.parts" in str(error.value)
        assert "toys" not in sys.modules
    records, notes = run_record.records([Path("runs")])
    assert ([record.settings["data.name"] for record in records], notes) == (["toys.parts:Stripes"], [])
    assert "toys" not in sys.modules


@pytest.mark.usefixtures("toys")
def test_a_run_is_used_where_its_classes_are_allowed():
    """A package, a module, or each class named again is enough; a longer name that begins alike is not."""
    run = dcnlab.fit(load_experiment("classify.yaml", ["id=run"]))
    named = [f"{key}=toys.parts:{name}" for key, name in (("data.name", "Stripes"), ("model.backbone.name", "Small"))]
    scores = evaluate(run, [*named, "model.deform_kind=toys.parts:surgery"])
    assert evaluate(run, [], ["toys"]) == scores
    assert evaluate(run, [], ["toys.parts"]) == scores
    with pytest.raises(ConfigError, match=r"model\.backbone.name is 'toys.parts:Small'"):
        evaluate(run, [], ["toys.parts:Stripes"])
    with pytest.raises(ConfigError, match=r"data\.name is"):
        evaluate(run, [], ["toy", "toys.part"])
    resume(run, ["trainer.max_steps=3"], ["toys"])
    assert dcnlab.load(run, allow="toys").classes == ["across", "down"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nowhere.parts:Stripes", "nowhere.parts cannot be imported (No module named 'nowhere'); install it"),
        ("toys.parts:Stripe", "toys.parts has no Stripe; nearest: Stripes"),
        ("toys.parts:__name__", "a str; it must be a class or a function"),
        ("toys parts:Stripes", "a class from outside dcnlab is named package.module:Class"),
    ],
)
@pytest.mark.usefixtures("toys")
def test_a_wrong_name_is_one_line(name, says):
    """The error names the key, the name and what is wrong with it, and no run folder is made."""
    with pytest.raises(ConfigError) as error:
        dcnlab.fit(load_experiment("classify.yaml", [f"data.name={name}"]))
    assert f"data.name is {name!r}" in str(error.value)
    assert says in str(error.value)
    assert not Path("runs").exists()


@pytest.mark.usefixtures("toys")
def test_a_sweep_over_toys_is_run_and_tabulated(tmp_path, monkeypatch, capsys):
    """Two trials of an option of the data set; the table has a row of each."""
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    sweep = {
        "program": "classify.yaml",
        "command": ["${env}", "dcnlab", "fit", "${program}", "${args_json_file}"],
        "method": "grid",
        "parameters": {"data.options.length": {"values": [8, 12]}},
    }
    Path("sweep.yaml").write_text(yaml.safe_dump(sweep))
    assert called(monkeypatch, "sweep", "sweep.yaml") == 0
    capsys.readouterr()
    assert called(monkeypatch, "table", "sweep.yaml", "--runs", "runs", "--format", "json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["data.options.length"] for row in rows] == [8, 12]
    assert all(row["top1"] is not None for row in rows)


def called(monkeypatch, *words):
    """The exit status of a command in this process."""
    monkeypatch.setattr(sys, "argv", ["dcnlab", *words])
    with pytest.raises(SystemExit) as end:
        main.main()
    return end.value.code or 0
