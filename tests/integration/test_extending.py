"""docs/extending.md: its Python blocks run one after the other, and what it names is there."""

import re
import warnings

from locations import ROOT

from dcnlab.ablations.sweeps import sweep_file
from dcnlab.ablations.sweeps.trial import trials_of
from dcnlab.config.keys import type_of
from dcnlab.config.load import load_experiment

PAGE = ROOT / "docs/extending.md"


def test_python_blocks_of_the_page_run(tmp_path, monkeypatch):
    """The blocks are one script, in an empty folder, and leave five finished runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    names = {"__name__": "page"}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) > 7
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice on loaders
        for block in blocks:
            exec(compile(block, f"a block of {PAGE.name}", "exec"), names)
    assert len(list(tmp_path.glob("runs/*/*/results.json"))) == 5
    assert names["network"].classes == list("0123456789")
    assert names["vertical"].shape == names["horizontal"].shape
    assert names["again"].classes == ["cat", "dog"]
    assert isinstance(names["trainer"].optimizers[0], names["torch"].optim.RMSprop)
    assert names["trainer"].global_step == 2
    assert names["head"][0].out_features == 16
    assert len(names["confidences"]) == 1
    assert 0.1 <= names["confidences"][0] <= 1


def test_yaml_blocks_of_the_page_are_read_from_anywhere(tmp_path, monkeypatch):
    """The experiment and the sweep that name packaged experiments load in a folder outside the checkout."""
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```yaml\n# (\w+\.yaml)\n(.*?)```", PAGE.read_text(), re.DOTALL)
    for name, text in blocks:
        (tmp_path / name).write_text(text)
    mine, packaged = load_experiment("mine.yaml"), load_experiment("classification/quickstart")
    assert (mine.name, mine.model.deform_layers, mine.optim.lr) == ("mine", 2, 0.02)
    assert mine.data == packaged.data
    trials = trials_of(sweep_file.read("rates.yaml"))
    assert len(trials) == 6
    assert {trial.config.data.train_length for trial in trials} == {packaged.data.train_length}


def test_keys_that_the_page_names_are_keys():
    """Every `section.key` in the page is one of an experiment."""
    keys = set(re.findall(r"`((?:data|model|trainer|optim|logger)(?:\.[a-z_]+)+)[`:]", PAGE.read_text()))
    assert len(keys) > 12
    assert [key for key in sorted(keys) if type_of(key) is None] == []
