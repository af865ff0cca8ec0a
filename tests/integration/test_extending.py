"""docs/extending.md: its Python blocks run one after the other, and what it names is there."""

import re
import warnings

from locations import ROOT

from dcnlab.config.keys import type_of

PAGE = ROOT / "docs/extending.md"


def test_python_blocks_of_the_page_run(tmp_path, monkeypatch):
    """The blocks are one script, in an empty folder, and leave four finished runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    names = {"__name__": "page"}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) > 7
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice on loaders
        for block in blocks:
            exec(compile(block, f"a block of {PAGE.name}", "exec"), names)
    assert len(list(tmp_path.glob("runs/*/*/results.json"))) == 4
    assert names["network"].classes == list("0123456789")
    assert names["vertical"].shape == names["horizontal"].shape
    assert names["again"].classes == ["cat", "dog"]
    assert isinstance(names["trainer"].optimizers[0], names["torch"].optim.RMSprop)
    assert names["trainer"].global_step == 2
    assert len(names["confidences"]) == 1
    assert 0.1 <= names["confidences"][0] <= 1


def test_keys_that_the_page_names_are_keys():
    """Every `section.key` in the page is one of an experiment."""
    keys = set(re.findall(r"`((?:data|model|trainer|optim|logger)(?:\.[a-z_]+)+)[`:]", PAGE.read_text()))
    assert len(keys) > 12
    assert [key for key in sorted(keys) if type_of(key) is None] == []
