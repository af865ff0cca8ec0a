"""The example notebook runs from top to bottom on the embedded data."""

import json

import matplotlib
from locations import ROOT

NOTEBOOK = ROOT / "examples/embedded_digits.ipynb"


def cells():
    return [
        "".join(cell["source"]) for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"
    ]


def test_cells_of_the_notebook_run_in_order(tmp_path, monkeypatch, capsys):
    """A reader who runs all cells gets scenes, a trained network and its sampling locations."""
    matplotlib.use("agg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    space = {}
    for number, code in enumerate(cells()):
        exec(compile(code, f"cell {number}", "exec"), space)
    assert space["results"]["status"] == "finished"
    assert space["offset"].shape[1] == 18
    assert space["offset"].abs().max() > 0.01  # training has moved the sampling locations
    assert (space["deformed"] - space["plain"]).abs().max() < 1e-4


def test_the_notebook_names_no_folder_of_a_machine():
    """Its kept outputs hold no path that only its author has."""
    text = NOTEBOOK.read_text()
    assert not [word for word in ("/home/", "/root/", "/Users/") if word in text]
