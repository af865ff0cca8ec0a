"""Keys of `trainer` and `logger` that users of Lightning expect, each on a tiny run."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from command_line import python

import dcnlab
from dcnlab.config import identity
from dcnlab.config.load import load_experiment
from dcnlab.config.schema import Config
from dcnlab.io.errors import ConfigError
from dcnlab.training.loggers.metrics_csv import read
from dcnlab.training.run import evaluate, resume

QUIET = ("logger.wandb=false", "test.pictures=0", "data.train_length=64")


def fit(experiment, *words):
    return dcnlab.fit(load_experiment(experiment, [*QUIET, "id=run", *words]))


def results(run):
    return json.loads((run / "results.json").read_text())


def test_limits_count_batches_and_a_profile_is_written(tiny):
    """Two of four batches make an epoch, a fraction is of all; profile/ names the steps of the training."""
    run = fit(
        tiny,
        "trainer.limit_train_batches=2",
        "trainer.limit_val_batches=1",
        "trainer.limit_test_batches=0.34",
        *("trainer.max_steps=null", "trainer.max_epochs=2", "trainer.profiler=simple"),
    )
    rows = read(run / "metrics.csv")
    assert max(int(row["step"]) for row in rows if row.get("train/loss")) == 3
    top1 = results(run)["metrics"]["top1"]
    assert top1 * 16 / 100 == pytest.approx(round(top1 * 16 / 100))  # 16 of the 40 test images
    assert "run_training_batch" in (run / "profile/fit-profile.txt").read_text()


def test_a_fast_dev_run_is_a_whole_run_of_one_batch(tiny):
    """One step, results of one batch, and a checkpoint; its settings are not those of the real run."""
    run = fit(tiny, "trainer.fast_dev_run=true", "trainer.max_steps=100")
    assert results(run)["status"] == "finished"
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 1
    assert identity.changed(identity.settings(load_experiment(str(run / "config.yaml"))))["trainer.fast_dev_run"]


def test_training_ends_without_improvement_and_keeps_the_best(tiny, monkeypatch):
    """Training ends two validations after the best, whose checkpoint is scored, loaded and evaluated."""
    words = ("optim.lr=0", "trainer.max_steps=null", "trainer.max_epochs=9", "trainer.early_stop=2")
    words += ("trainer.limit_val_batches=null",)
    run = fit(tiny, *words, "trainer.keep_best=true", "data.train_length=16")
    best, last = (torch.load(run / f"checkpoints/{name}.ckpt", weights_only=True) for name in ("best", "last"))
    assert last["global_step"] == best["global_step"] + 2 < 9  # at rate 0 the norms' statistics alone improve it
    assert not (run / "checkpoints/best.ckpt").with_name("previous.ckpt").samefile(run / "checkpoints/best.ckpt")
    key = "model.fc.weight"
    best["state_dict"][key].zero_()
    torch.save(best, run / "checkpoints/best.ckpt")
    assert not dcnlab.load(run).state_dict()[key].any()
    assert evaluate(run, ["data.test_length=10"])["top1"] != results(run)["metrics"]["top1"]
    with pytest.raises(ConfigError, match="is finished; there is nothing to resume"):
        resume(run)
    resume(run, ["trainer.early_stop=3"])
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"] == best["global_step"] + 3


DDP = """
import dcnlab, pytorch_lightning as pl
from dcnlab.config.load import load_experiment

class Strategy(pl.Callback):
    def on_train_end(self, trainer, module):
        print(type(trainer.strategy).__name__, type(trainer.strategy.model).__name__, trainer.world_size)

dcnlab.fit(load_experiment("tiny.yaml", {words}), callbacks=[Strategy()])
"""


def test_ddp_by_name_trains_as_one_rank_does_without(tiny):
    """trainer.strategy=ddp wraps the network on a single CPU rank, and gives the same weights."""
    words = [*QUIET, "id=ddp", "trainer.strategy=ddp"]
    done = python("-c", DDP.format(words=words))  # a process: it leaves torch's process group behind
    assert (done.returncode, done.stdout) == (0, "DDPStrategy DistributedDataParallel 1\n"), done.stderr
    plain, ddp = (dcnlab.load(run).state_dict() for run in (fit(tiny), Path("runs/tiny/ddp")))
    assert plain.keys() == ddp.keys()
    assert all(torch.equal(plain[name], ddp[name]) for name in plain)


def test_loggers_stand_side_by_side(tiny, monkeypatch):
    """csv, wandb and TensorBoard all get the training loss."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = fit(tiny, "logger.names=[csv, wandb, tensorboard]")
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    losses = [event.value for event in events.Scalars("train/loss")]
    assert losses == pytest.approx([float(row["train/loss"]) for row in read(run / "metrics.csv") if row["train/loss"]])
    assert results(run)["wandb"]["id"]


def test_names_of_loggers_take_the_place_of_the_wandb_key(tiny):
    """csv alone mirrors nothing to wandb, though `logger.wandb` is true by default."""
    run = dcnlab.fit(load_experiment(tiny, ["logger.names=[csv]", "id=run", "trainer.fast_dev_run=true"]))
    assert results(run)["wandb"]["id"] is None
    assert not (run / "wandb").exists()


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("trainer.strategy=fsdp", "trainer.strategy is 'fsdp', which dcnlab does not have; take ddp: the networks"),
        ("trainer.strategy=dpp", "trainer.strategy is 'dpp'; nearest: ddp; choose from: auto, ddp, ddp_find"),
        ("trainer.profiler=sample", "trainer.profiler is 'sample'; nearest: simple"),
        ("trainer.limit_train_batches=1.5", "trainer.limit_train_batches is 1.5; it must be a fraction below 1"),
        ("trainer.limit_test_batches=0", "trainer.limit_test_batches is 0; it must be a fraction below 1"),
        ("trainer.early_stop=0", "trainer.early_stop is 0; it must be at least 1"),
        ("logger.names=[csv, mlflow]", "logger.names is 'mlflow'; choose from: csv, wandb, tensorboard"),
    ],
)
def test_a_wrong_value_of_a_trainer_key_is_one_line(tiny, word, says):
    """The error names the key, the value and what it takes."""
    with pytest.raises(ConfigError) as error:
        load_experiment(tiny, [word])
    assert says in str(error.value)


def test_early_stopping_wants_a_validation_and_a_metric_of_it(tiny):
    """data.val=null is refused before the run; an unknown metric names those that there are."""
    with pytest.raises(ConfigError, match=r"trainer\.early_stop is 2, and data\.val is null"):
        load_experiment(tiny, ["trainer.early_stop=2", "data.val=null"])
    with pytest.raises(ConfigError, match=r"trainer\.monitor is 'val/top2'.*nearest is 'val/top5'"):
        fit(tiny, "trainer.keep_best=true", "trainer.monitor=val/top2", "trainer.fast_dev_run=true")


def test_tensorboard_that_is_not_installed_is_one_line(tiny, monkeypatch):
    """The error says what to install, and no folder is made."""
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name.startswith("tensorboard") else find(name))
    with pytest.raises(ConfigError, match=r"pip install 'dcnlab\[tensorboard\]'"):
        fit(tiny, "logger.names=[tensorboard]")
    assert not Path("runs").exists()


def test_the_new_keys_leave_the_identity_of_old_runs_alone():
    """At their defaults they are not part of what tells runs apart, and a run without them has the same identity."""
    settings = identity.settings(Config())
    new = [key for key in settings if key.startswith(("trainer.limit", "trainer.early", "trainer.keep", "data.opt"))]
    assert len(new) == 6
    assert identity.changed(settings) == {}
    assert identity.changed({key: value for key, value in settings.items() if key not in new}) == {}
