"""Names of classes from outside dcnlab: who may name them, and what they mean to a config."""

import copy
import sys
from pathlib import Path

import pytest

from dcnlab.config import identity, outside
from dcnlab.config.load import from_settings, load_experiment, load_run, read_run, to_yaml
from dcnlab.config.schema import Config, DataConfig
from dcnlab.io.errors import ConfigError

MODULE = """
class Cards: pass
class Net:
    class Inner: pass
"""


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    """A module `cards_of_mine` that can be imported, and an experiment that names it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("cards_of_mine.py").write_text(MODULE)
    Path("mine.yaml").write_text('data: {name: "cards_of_mine:Cards", options: {fold: 1}}\ntrainer: {max_steps: 2}\n')
    Path("plain.yaml").write_text("trainer: {max_steps: 2}\n")
    yield
    sys.modules.pop("cards_of_mine", None)


def test_an_experiment_of_ones_own_imports_what_it_names():
    """The name stays the text that config.yaml holds; the class travels with it, also through a copy."""
    config = copy.deepcopy(load_experiment("mine.yaml"))
    assert outside.target("data.name", config.data.name).__name__ == "Cards"
    assert "name: cards_of_mine:Cards" in to_yaml(config)
    settings = identity.settings(config)
    assert (settings["data.name"], settings["data.options.fold"]) == ("cards_of_mine:Cards", 1)
    assert type(settings["data.name"]) is str


@pytest.mark.parametrize(
    ("words", "parameters"),
    [(["data.name=cards_of_mine:Net.Inner"], None), ([], {"data": {"name": "cards_of_mine:Net.Inner"}})],
)
def test_the_command_line_and_a_sweep_may_name_classes(words, parameters):
    """A name of theirs is imported like one of the experiment file."""
    config = load_experiment("plain.yaml", words, parameters)
    assert outside.target("data.name", config.data.name).__qualname__ == "Net.Inner"


def test_a_runs_config_imports_nothing_as_experiment_or_base():
    """A file called config.yaml, and one that extends it, are refused until the name is given again."""
    Path("run").mkdir()
    Path("run/config.yaml").write_text(Path("mine.yaml").read_text())
    Path("child.yaml").write_text("extends: run/config.yaml\n")
    for load in (
        lambda: load_experiment("run/config.yaml"),
        lambda: load_experiment("child.yaml"),
        lambda: load_run(Path("run")),
        lambda: from_settings({"data.name": "cards_of_mine:Cards"}, "a checkpoint"),
    ):
        with pytest.raises(ConfigError, match=r"data\.name is 'cards_of_mine:Cards', code from outside dcnlab"):
            load()
    assert "cards_of_mine" not in sys.modules
    assert load_experiment("child.yaml", ["data.name=cards_of_mine:Cards"]).data.name == "cards_of_mine:Cards"
    assert load_experiment("child.yaml", allow=["cards_of_mine"]).data.name == "cards_of_mine:Cards"


def test_nothing_is_built_from_a_config_that_was_only_read():
    """`read_run` imports nothing, and its name has no class."""
    Path("run").mkdir()
    Path("run/config.yaml").write_text(Path("mine.yaml").read_text())
    config = read_run(Path("run"))
    assert config.data.options == {"fold": 1}
    with pytest.raises(ConfigError, match="may not import by itself"):
        outside.target("data.name", config.data.name)
    assert "cards_of_mine" not in sys.modules


@pytest.mark.parametrize(
    ("allowed", "is_allowed"),
    [("a", True), ("a.b", True), ("a.b:C", True), ("a.b:", False), ("a.bc", False), ("", False), ("b", False)],
)
def test_a_package_a_module_or_a_class_is_allowed(allowed, is_allowed):
    """Names match whole parts: a package covers its modules, and none that begins alike."""
    assert outside._covers(allowed, "a.b:C") is is_allowed


def test_a_class_object_stands_for_its_name():
    """Given in Python it needs no import, also where its name could not be imported."""

    class Local:
        pass

    config = Config(data=DataConfig(name=Local))
    outside.admit(config, None, "the config")
    assert config.data.name.endswith(":test_a_class_object_stands_for_its_name.<locals>.Local")
    assert outside.target("data.name", config.data.name) is Local
    again = Config(data=DataConfig(name=str(config.data.name)))
    outside.admit(again, [Local], "a run")
    assert outside.target("data.name", again.data.name) is Local


def test_free_keys_are_taken_and_others_are_not():
    """`options` takes any key on the command line; `sweep` and other sections do not."""
    names = [f"{key}=json:loads" for key in ("data.name", "model.backbone.name")]
    config = load_experiment("plain.yaml", [*names, "data.options.fold=2", "model.backbone.options.width=[8, 16]"])
    assert (config.data.options, config.model.backbone.options) == ({"fold": 2}, {"width": [8, 16]})
    for word in ("sweep.a=1", "data.option.fold=1"):
        with pytest.raises(ConfigError, match="no such key"):
            load_experiment("plain.yaml", [word])
