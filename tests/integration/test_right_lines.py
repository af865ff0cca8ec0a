"""Mistakes that new users make: each ends with one line that says what is right, and with exit status 2."""

import errno
import re
import shlex
import shutil
import sys
from pathlib import Path

import own_folders
import pytest
import torch
from torch import nn

from dcnlab.cli import main, usage
from dcnlab.config import names, other_words, value_types
from dcnlab.config.keys import default_of, type_of
from dcnlab.config.schema import Config, OptimConfig, TrainerConfig
from dcnlab.io.errors import ConfigError
from dcnlab.models import weights
from dcnlab.models.resnet import residual_network
from dcnlab.training import run as training

SWEEP = """
program: classification/quickstart
command: ["${env}", dcnlab, fit, "${program}", "${args_json_file}"]
method: grid
parameters: {model.deform_layers: {values: [0, 99]}}
"""


@pytest.fixture
def folder(tiny):
    """The current folder, with class folders, an empty run folder and files of other kinds."""
    own_folders.class_folders(Path("MINE"))
    Path("notes.txt").write_text("hello")
    Path("empty.yaml").write_text("")
    Path("sweep.yaml").write_text(SWEEP)
    for name in ("one", "two"):
        Path(f"runs/mine/{name}").mkdir(parents=True)
        Path(f"runs/mine/{name}/config.yaml").write_text("trainer: {max_steps: 1}\n")


def ended(monkeypatch, capsys, command):
    """Exit status and standard error of a command that runs in this process."""
    monkeypatch.setattr(main.parent_death, "hold", lambda: None)
    monkeypatch.setattr(main, "show_warnings_visibly", lambda: None)
    monkeypatch.setattr(sys, "argv", ["dcnlab", *shlex.split(command)])
    with pytest.raises(SystemExit) as end:
        main.main()
    return end.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("fit tiny.yaml optim.lr=inf", "optim.lr is inf; it must be a finite number, at least 0"),
        ("fit tiny.yaml optim.lr=nan", "optim.lr is nan; it must be a finite number, at least 0"),
        ("fit tiny.yaml optim.momentum=nan", "optim.momentum is nan; it must be a finite number, between 0 and 1"),
        ("fit tiny.yaml optim.milestones=[nan]", "optim.milestones is [nan]; the numbers must be above 0 and grow"),
        ("fit tiny.yaml seed=-1", "seed is -1; it must be between 0 and 4294967295"),
        ("fit tiny.yaml optim.lr=", "optim.lr is null; it must be a number, such as its default 0.05"),
        ("fit tiny.yaml optim.lr=null", "optim.lr is null; it must be a number, such as its default 0.05"),
        ("fit tiny.yaml out=null", "out is null; it must be text, such as its default 'runs'"),
        ("fit tiny.yaml name=None", "name is null; it must be text, such as its default 'experiment'"),
        ("fit tiny.yaml logger=null", "logger is null; it must be a section with the keys wandb, project"),
        ("fit tiny.yaml trainer.precision=bf16", "trainer.precision is 'bf16'; nearest: bf16-mixed"),
        ("fit tiny.yaml trainer.precision=16", "trainer.precision is '16'; nearest: 16-mixed"),
        ("fit tiny.yaml trainer.accelerator=cuda", "trainer.accelerator is 'cuda'; nearest: gpu"),
        ("fit tiny.yaml trainer.lr=1", "no such key trainer.lr; nearest: optim.lr"),
        ("fit tiny.yaml epochs=1", "no such key epochs; nearest: trainer.max_epochs"),
        ("fit tiny.yaml optim.lr 0.1", "optim.lr is a key; write optim.lr=VALUE, without spaces"),
        ("fit tiny.yaml --lr 0.1", "No such option: --lr; a setting has no dashes: optim.lr=0.1"),
        ("fit tiny.yaml --optim.lr=0.1", "No such option: --optim.lr; a setting has no dashes: optim.lr=0.1"),
        ("fit tiny.yaml --epochs", "No such option: --epochs; a setting has no dashes: trainer.max_epochs=VALUE"),
        ("sweep sweep.yaml --lr 0.1", "No such option: --lr; a setting has no dashes: optim.lr=0.1; see"),
        ("fit MINE", "MINE is a folder, not an experiment; `dcnlab list experiments` prints the packaged ones"),
        ("sweep sweep.yaml --job 2", "No such option: --job; nearest: --jobs; see"),
        ("fit optim.lr=0.1", "optim.lr=0.1 is a setting; an experiment comes before it, such as classification/"),
        ("fit", "Missing argument 'EXPERIMENT.yaml'; `dcnlab list experiments` names them; see `dcnlab fit --help`"),
        ("fit empty.yaml", "empty.yaml is empty; an experiment states at least extends: classification/quickstart"),
        ("fit sweep.yaml", "sweep.yaml is a sweep, not an experiment: dcnlab sweep sweep.yaml"),
        ("fit table1_rfcn_voc", "table1_rfcn_voc is a sweep, not an experiment: dcnlab sweep table1_rfcn_voc"),
        ("sweep tiny.yaml", "tiny.yaml is an experiment, not a sweep: dcnlab fit tiny.yaml"),
        ("sweep classification/quickstart", "is an experiment, not a sweep: dcnlab fit classification/quickstart"),
        ("fit runs/mine/one", "runs/mine/one is a run folder, not an experiment; its settings are runs/mine/one/conf"),
        ("resume tiny.yaml", "tiny.yaml is a file, not a run folder"),
        ("resume runs/mine/one/config.yaml", "is a file, not a run folder; nearest: runs/mine/one"),
        ("resume detection/quickstart", "is an experiment, not a run folder: dcnlab fit detection/quickstart"),
        ("resume runs", "it has no config.yaml; the newest of the 2 runs in it: runs/mine/"),
        ("evaluate runs/mine", "it has no config.yaml; the newest of the 2 runs in it: runs/mine/"),
        ("sweep sweep.yaml", "model.deform_layers is 99; resnet10_slim has 9 3x3 convolutions; nearest: 9"),
        ("fit tiny.yaml model.deform_layers=10", "resnet10_slim has 9 3x3 convolutions; nearest: 9"),
        ("fit tiny.yaml model.dilation=9", "the map of layer4.0.conv1 is 4x4: all of its taps but the central one"),
        ("fit classification/own data.root=notes.txt", "data.root is 'notes.txt', which is a file; it must be the"),
        ("fit classification/own data.root=MIME", "data.root is 'MIME', and there is no such folder; nearest: MINE"),
        ("fit tiny.yaml model.backbone.weights=notes.text", "a file that is there; nearest: notes.txt"),
        ("fit tiny.yaml model.backbone.weights=/nope.pt", "or a file that is there"),
        ("fit tiny.yaml model.backbone.weights=notes.txt", "(ValueError: it is not a file that torch.save writes)"),
        ("fit tiny.yaml data.name=imagefolder data.root=MINE", "data.name=own takes ROOT/CLASS/IMAGE and holds the"),
        ("train tiny.yaml", "No such command 'train'; nearest: fit; see"),
        ("help", "No such command 'help'; nearest: --help; see"),
        ("test runs/mine/one", "No such command 'test'; nearest: evaluate; see"),
    ],
)
def test_a_mistake_of_a_new_user_gets_the_right_line(folder, monkeypatch, capsys, command, says):
    """One line, exit status 2, and no run is started."""
    status, errors = ended(monkeypatch, capsys, command)
    assert says in errors
    assert (status, errors.count("\n")) == (2, 1)
    assert len(list(Path("runs").rglob("config.yaml"))) == 2


def test_weights_name_no_folder_as_the_nearest_file(folder, monkeypatch, capsys):
    """A file that is missing is not answered with a folder."""
    Path("wait").mkdir()
    _, errors = ended(monkeypatch, capsys, "fit tiny.yaml model.backbone.weights=waits")
    assert "nearest" not in errors


def test_a_key_set_twice_is_noted_and_the_last_one_counts(folder, monkeypatch, capsys):
    """The line names the key and its values; equal values, and those of a wandb agent, need none."""
    status, errors = ended(monkeypatch, capsys, "recipe tiny.yaml optim.lr=0.1 optim.lr=0.2 seed=1 seed=1")
    assert (status, errors) == (None, "note: optim.lr is set 2 times, 0.1, 0.2: the last one counts\n")
    monkeypatch.setenv("WANDB_SWEEP_ID", "x")
    assert ended(monkeypatch, capsys, "recipe tiny.yaml optim.lr=0.1 optim.lr=0.2")[1] == ""


def test_words_of_other_suites_stand_for_keys_and_commands():
    """Each of them leads to a key that can be set, or to a command that exists."""
    assert all(not hasattr(type_of(key), "__dataclass_fields__") for key in other_words.KEYS.values())
    assert None not in map(type_of, other_words.KEYS.values())
    assert not set(other_words.KEYS) & set(vars(Config()))
    commands = {command.name for command in main.app.registered_commands}
    assert {name for name in other_words.COMMANDS.values() if not name.startswith("--")} <= commands
    assert not set(other_words.COMMANDS) & commands


@pytest.fixture
def run(trained_tasks, tmp_path):
    """A copy of a trained run, whose data are where the current folder has none."""
    return Path(shutil.copytree(trained_tasks / "runs/classification/run", tmp_path / "copies/run"))


def test_moved_data_say_how_the_run_finds_them(folder, run, trained_tasks):
    """Of a run folder the line adds what the command needs; the command then works."""
    with pytest.raises(ConfigError, match=r"where the data moved, add data\.root=FOLDER to the command"):
        training.evaluate(run, [])
    assert "top1" in training.evaluate(run, [f"data.root={trained_tasks / 'folders'}"])


def test_an_edited_config_is_the_subject_of_its_line(folder, run, trained_tasks):
    """The line of a config that no longer fits its checkpoint begins with the config's path."""
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("deform_layers: 1", "deform_layers: 2"))
    with pytest.raises(ConfigError, match=f"^{config} with data.root=.* asks for another network"):
        training.evaluate(run, [f"data.root={trained_tasks / 'folders'}"])


def test_a_full_disk_says_which_command_continues(run, tmp_path):
    """A run with a checkpoint is resumed; anything else is started again."""
    full = OSError(errno.ENOSPC, "No space left on device", str(run / "checkpoints/last.ckpt"))
    assert usage.after_room(full) == f"; once there is room, dcnlab resume {run} continues"
    full = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "table.json"))
    assert usage.after_room(full) == "; once there is room, the same command continues"
    assert usage.after_room(OSError(errno.EROFS, "Read-only file system")) == ""


def test_notices_of_a_download_leave_standard_output_alone(monkeypatch, capsys):
    """What torch prints while it fetches weights goes to standard error: RUN=$(dcnlab fit ...) takes the folder."""

    class Member:
        @staticmethod
        def get_state_dict(**options):
            print("Downloading: somewhere")
            return {}

    monkeypatch.setattr(weights, "torchvisions", lambda name, member: Member)
    assert weights.downloaded("resnet50", "imagenet") == {}
    assert capsys.readouterr() == ("", "Downloading: somewhere\n")


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (Config(), "trainer.max_steps and trainer.max_epochs are both null; state one of them"),
        (Config(seed="3"), "seed is '3'; it must be a whole number, such as its default 0"),
        (Config(optim=OptimConfig(lr="0.1")), "optim.lr is '0.1'; it must be a number, such as its default 0.05"),
        (Config(trainer=TrainerConfig(max_steps=True)), "trainer.max_steps is true; it must be a whole number or null"),
        (Config(data={"name": "digits"}), "data is {'name': 'digits'}; it must be a section with the keys name, root"),
        (Config(optim=OptimConfig(milestones=(0.5,))), "optim.milestones is (0.5,); it must be a list of numbers"),
    ],
)
def test_a_config_made_in_python_is_checked_too(folder, config, says):
    """A missing length and a value of another type are refused before anything is made."""
    with pytest.raises(ConfigError, match=re.escape(says)):
        training.fit(config)


def test_every_default_is_of_its_own_type():
    """The check of types lets every packaged default pass; the defaults are those of the classes."""
    value_types.check_types(Config())
    assert default_of("model.backbone.name") == "resnet50"


@pytest.mark.parametrize("name", ["resnet10_slim", "resnet18", "resnet50", "aligned_inception_resnet"])
def test_the_count_of_layers_is_the_networks_own(name):
    """The number that the config is checked against is that of the 3x3 convolutions of the built network."""
    with torch.device("meta"):
        layers = [layer for layer in residual_network(name).modules() if isinstance(layer, nn.Conv2d)]
    assert names.BACKBONES[name].layers == sum(layer.kernel_size == (3, 3) for layer in layers)
    assert [names.BACKBONES[f"resnet{depth}"].layers for depth in (34, 101, 152)] == [32, 33, 50]  # He et al. 2015
