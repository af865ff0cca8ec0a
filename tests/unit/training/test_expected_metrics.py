"""A test that meets the metrics of `test.expected`, and one that misses them."""

import json
from pathlib import Path

import pytest

from dcnlab.cli.main import app
from dcnlab.config import names
from dcnlab.io.errors import ConfigError
from dcnlab.metrics.coco_ap import coco_ap
from dcnlab.training import expected
from dcnlab.training.run_folder import RunFolder

RUN = Path("runs/tiny/one")


def dcnlab(*words):
    """The exit status of a command."""
    return app(list(words), prog_name="dcnlab", standalone_mode=False) or 0


def fit(tiny, stated):
    path = Path(tiny)
    path.write_text(path.read_text() + f"test: {{pictures: 0, expected: {stated}}}\n")
    return dcnlab("fit", tiny, "id=one", "logger.wandb=false")


def test_a_test_that_misses_ends_with_status_1(tiny, caplog, capsys):
    """A line for each expected metric; a missed one ends the command with 1, though the run is finished."""
    caplog.set_level("INFO", "dcnlab")
    assert fit(tiny, "{top1: [100, 0.5], top5: [50, 50]}") == 1
    assert capsys.readouterr().out.endswith(f"{RUN}\n")
    results = json.loads((RUN / "results.json").read_text())
    assert (results["status"], results["end"]) == ("finished", "finished")
    assert results["expected"] == {
        "top1": {"value": 100, "tolerance": 0.5, "met": False},
        "top5": {"value": 50, "tolerance": 50, "met": True},
    }
    top1, top5 = (results["metrics"][name] for name in ("top1", "top5"))
    lines = [
        f"top1 {top1:.2f}: expected 100.00 within 0.50, missed by {99.5 - top1:.2f}",
        f"top5 {top5:.2f}: expected 50.00 within 50.00, met",
    ]
    assert [text for text in caplog.messages if "expected" in text] == lines
    caplog.clear()
    assert dcnlab("evaluate", str(RUN)) == 1
    assert capsys.readouterr().out.startswith("top1 ")
    assert [text for text in caplog.messages if "expected" in text] == lines


def test_a_test_that_meets_ends_with_status_0(tiny, caplog):
    """A met metric is told and recorded, and evaluate under other settings compares nothing."""
    assert fit(tiny, "{top1: [50, 50]}") == 0
    results = json.loads((RUN / "results.json").read_text())
    assert results["expected"] == {"top1": {"value": 50, "tolerance": 50, "met": True}}
    caplog.clear()
    assert dcnlab("evaluate", str(RUN), "test.rotation=1") == 0
    assert [text for text in caplog.messages if "expected" in text] == []


@pytest.mark.parametrize(
    ("metrics", "met"),
    [({"ap50": 60.0}, True), ({"ap50": 62.0}, True), ({"ap50": 62.1}, False), ({"ap50": 57.9}, False), ({}, False)],
)
def test_a_metric_is_met_within_its_tolerance(metrics, met):
    """The tolerance counts to both sides, its bounds included; a metric that was not measured is missed."""
    assert expected.all_met(expected.compare(metrics, {"ap50": [60, 2]})) is met


def test_a_metric_that_was_not_measured_is_told(caplog):
    """A test split without an object has no AP, which the line says."""
    expected.report({}, expected.compare({}, {"ap50": [60, 2]}))
    assert caplog.messages == ["ap50: expected 60.00 within 2.00, not measured by this test"]


def test_the_names_are_those_that_a_test_measures():
    """COCO's names are the ones that its evaluation returns."""
    image = {"images": [{"id": 1}], "categories": [{"id": 1, "name": "a"}]}
    box = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10]}
    scores = coco_ap(image | {"annotations": [box | {"id": 1, "area": 100, "iscrowd": 0}]}, [box | {"score": 1.0}])
    assert sorted(name for name in scores if "/" not in name) == sorted(names.METRICS["coco"])


def test_an_outcome_of_another_form_is_refused(tmp_path):
    """results.json that does not say whether a metric was met is refused in one line."""
    good = {"schema": 1, "status": "finished", "seed": 0, "parameters": {}, "model": {}, "cost": {}, "environment": {}}
    for outcome in ({"top1": {"value": 1}}, [], {"top1": True}):
        (tmp_path / "results.json").write_text(json.dumps({**good, "metrics": {}, "expected": outcome}))
        with pytest.raises(ConfigError, match=r"results\.json: expected is [^\n]*; it must state met, true or false"):
            RunFolder(tmp_path).read_results()
