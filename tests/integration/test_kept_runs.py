"""tools/kept_runs.py: its tables of hand-made runs."""

import json
from pathlib import Path
from types import SimpleNamespace

import kept_runs


def run(name="one", seed=0, layers=0, scores=(("top1", 70.0),), folder=Path("/nowhere"), **changed):
    """A finished run as the tables read it."""
    settings = {key: "x" for key in kept_runs.SETTINGS.values()} | kept_runs.PLAIN | changed
    settings["model.deform_layers"] = layers
    results = {"metrics": dict(scores), "model": {"params": 10 + layers}}
    return SimpleNamespace(name=name, seed=seed, settings=settings, results=results, folder=folder, images=None)


def cells(table):
    """The rows below the header."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_settings_are_counted_and_listed_by_name():
    """Two values of a setting stand side by side; seeds count once."""
    runs = [run(), run(layers=3), run(seed=1, **{"optim.lr": 0.1}), run("two")]
    first, second = cells(kept_runs.settings(runs))
    assert first == ["one", "3", "2", "x", "x", "x", "x", "0.1, x", "x", "x", "x", "0"]
    assert second[:3] == ["two", "1", "1"]


def test_trainings_kept_under_two_names_are_counted():
    """The same seed, size and scores are one training; another score is another."""
    runs = [run(), run(seed=1), run("two"), run("two", seed=1, scores=(("top1", 71.0),)), run("three", layers=3)]
    assert cells(kept_runs.repeats(runs)) == [["one", "two", "1"]]
    assert kept_runs.repeats(runs[:2]) == "None is kept twice."


def test_seeds_whose_filters_spread_are_counted(tmp_path):
    """Of two seeds one spreads on large objects, and none on objects."""
    runs = []
    for seed, large in enumerate((2.5, 1.5)):
        folder = tmp_path / str(seed)
        folder.mkdir()
        means = {"small": 2.0, "medium": 2.0, "large": large, "background": 2.0}
        row = {"layer": "res5c"} | {size: {"mean": mean} for size, mean in means.items()}
        (folder / "dilation.json").write_text(json.dumps({"rows": [row]}))
        runs.append(run(seed=seed, folder=folder))
    assert cells(kept_runs.dilation([*runs, run()])) == [["one", "res5c", "2", "1", "0"]]


def test_the_growth_of_an_advantage_is_paired_by_seed(tmp_path):
    """Advantages of 2 and 4 points at 0 degrees become 3 and 1 at 90: -1 in the mean, growing in one seed of two."""
    runs = []
    curves = {(0, 0): (70, 50), (0, 1): (70, 50), (3, 0): (72, 53), (3, 1): (74, 51)}
    for (layers, seed), (upright, turned) in curves.items():
        folder = tmp_path / f"{layers}{seed}"
        folder.mkdir()
        tree = {"rotation": [[0.0, upright], [90.0, turned]], "scale": [[1.0, upright], [2.0, turned]]}
        (folder / "robustness.json").write_text(json.dumps(tree))
        runs.append(run("related_work", seed, layers, folder=folder))
    rotation, scale = kept_runs.robustness(runs).split("\n\n")
    assert cells(rotation) == cells(scale) == [["deform_layers 3", "2", "-1.0 (1)"]]
    assert rotation.splitlines()[0].split() == ["|", "rotation", "|", "seeds", "|", "90", "|"]
