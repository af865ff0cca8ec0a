"""`dcnlab config` and the examples of every help: values, sources, texts, and lines that fit a terminal."""

import os
import shlex
from pathlib import Path

import pytest
import typer

from dcnlab.cli import config_keys, main
from dcnlab.cli.completion import commands
from dcnlab.cli.examples import EXAMPLES
from dcnlab.config.load import load_experiment
from dcnlab.io.errors import ConfigError

COMMAND = typer.main.get_command(main.app)


def printed(capsys, *words):
    main.app(["config", *words], standalone_mode=False)
    return capsys.readouterr().out


def entries(text):
    """The lines of each key, by the key."""
    return {block.partition(":")[0]: block.splitlines() for block in text.split("\n\n")}


@pytest.fixture
def chain(tmp_path, monkeypatch):
    """An experiment that extends a packaged one through a second file."""
    monkeypatch.chdir(tmp_path)
    Path("base.yaml").write_text("extends: classification/quickstart\noptim: {lr: 0.02, momentum: 0.8}\n")
    Path("mine.yaml").write_text("extends: base.yaml\noptim: {momentum: 0.7}\n")
    return "mine.yaml"


def test_each_value_names_the_last_place_that_states_it(chain, capsys):
    """Each value names its source: a packaged file, a user's file, the command line, the file's name or the default."""
    shown = entries(printed(capsys, chain, "seed=4"))
    assert shown["seed"][0] == "seed: 4"
    assert shown["seed"][-2:] == ["    A whole number; default 0. From the command line.", "    Read in training only."]
    assert shown["optim.lr"] == [
        "optim.lr: 0.02",
        "    Base learning rate at the stated effective batch.",
        "    A number; default 0.05. From base.yaml.",
        "    Read in training only.",
    ]
    assert "    A number; default 0.9. From mine.yaml." in shown["optim.momentum"]
    assert "    A number; default 180.0. From classification/quickstart." in shown["data.rotation"]
    assert "    Text; default experiment. From classification/quickstart." in shown["name"]
    Path("short.yaml").write_text("trainer: {max_steps: 1}\n")
    named = entries(printed(capsys, "short.yaml"))["name"]
    assert (named[0], named[3]) == ("name: short", "    Text; default experiment. From the name of short.yaml.")
    assert shown["model.backbone.freeze_norm"][-2:] == [
        "    True or false; the default.",
        "    Read where task is segmentation or detection.",
    ]


def test_the_values_are_those_that_a_run_would_have(chain, capsys):
    """Every key stands there once, with the value of the loaded experiment."""
    shown = entries(printed(capsys, chain))
    config = load_experiment(chain)
    for key in ("trainer.max_steps", "model.deform_layers", "data.batch_size", "data.image_size"):
        section, _, name = key.partition(".")
        assert shown[key][0] == f"{key}: {getattr(getattr(config, section), name)}"
    assert len(shown) > 100
    assert "sweep" not in shown


@pytest.mark.parametrize(
    ("pattern", "keys"),
    [
        ("optim.warmup*", ["optim.warmup", "optim.warmup_kind", "optim.warmup_factor"]),
        ("border", ["model.rpn.border"]),
        ("EMA", ["optim.ema"]),
        ("model.rpn.s?ales", ["model.rpn.scales"]),
    ],
)
def test_a_pattern_chooses_keys_by_part_or_by_star(capsys, pattern, keys):
    """A word is looked for in each key; a star or a question mark stands for letters."""
    assert list(entries(printed(capsys, "--keys", pattern))) == keys


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--keys", "deform_layer_s"], "--keys deform_layer_s: no key has it; nearest: model.deform_layers"),
        (["--keys", "optm.*"], "--keys optm.*: no key has it; nearest: optim"),
        (["optim.lr=3"], "optim.lr=3 changes an experiment; state one before it: dcnlab config EXPERIMENT optim.lr=3"),
        (["detection/quickstrt"], "no such file: detection/quickstrt; nearest: detection/quickstart"),
        (["detection/quickstart", "optim.lr=x"], "command line: optim.lr is 'x'; it must be a number"),
    ],
)
def test_a_wrong_word_of_the_command_gets_the_right_line(capsys, words, says):
    """One line names the pattern, the setting or the file, and the nearest right one."""
    with pytest.raises(ConfigError) as caught:
        printed(capsys, *words)
    assert str(caught.value) == says


def test_no_line_of_the_keys_is_wider_than_80_columns(capsys):
    """Also the longest texts and values of a packaged experiment."""
    lines = printed(capsys, "detection/faster_rcnn_coco_authors").splitlines()
    assert max(map(len, lines)) <= config_keys.COLUMNS
    assert not [line for line in lines if line != line.rstrip()]


def test_an_experiment_on_files_needs_no_folder_to_be_shown(capsys):
    """data.root is shown as it is stated: null."""
    assert printed(capsys, "detection/own", "--keys", "data.root").startswith("data.root: null\n")
    assert printed(capsys, "detection/own", "data.root=MINE", "--keys", "data.root").startswith("data.root: MINE\n")


def helps():
    """Each command's words, and the help that a terminal of 80 columns shows."""
    return [command.path for command in commands(COMMAND)]


@pytest.mark.parametrize("path", helps())
def test_every_help_ends_with_examples_that_hold(path, capsys, monkeypatch):
    """Each example is shown uncut at 80 columns, and the command line accepts it."""
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        COMMAND.main([*path.split(), "--help"], prog_name="dcnlab")
    shown = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    for example in EXAMPLES[path]:
        assert example in shown
        words = shlex.split(example)
        if (words[:2] == ["dcnlab", "score"] and words[-1] == "--help") or words[0] != "dcnlab" or "|" in words:
            continue
        command, rest = COMMAND, words[1:]
        while getattr(command, "commands", None):
            command, rest = command.commands[rest[0]], rest[1:]
        parameters = command.make_context("dcnlab", list(rest)).params
        if "fit" in words or "config" in words:
            load_experiment(parameters["experiment"], parameters.get("args") or [], default_root=os.devnull)
