"""`test.expected`: which experiment it holds for, and what it may state."""

import json

import pytest

from dcnlab.config import identity
from dcnlab.config.load import load_experiment, load_run, to_yaml
from dcnlab.io.errors import ConfigError

FILE = """
task: {task}
data: {{name: digits}}
model: {{name: {network}, backbone: {{name: resnet10_slim}}}}
test: {{expected: {expected}}}
trainer: {{max_steps: 2}}
"""
TOP1 = {"top1": [73.2, 6]}


@pytest.fixture
def stating(tmp_path):
    """A function that writes an experiment with expected metrics, and gives its path."""

    def write(expected, task="classification", network="resnet"):
        path = tmp_path / "base.yaml"
        path.write_text(FILE.format(task=task, network=network, expected=expected))
        return str(path)

    return write


def test_expected_metrics_are_no_part_of_the_identity(stating):
    """A run with expected metrics and the same run without them have one identity."""
    with_them, without = (load_experiment(stating(text)) for text in ("{top1: [73.2, 6]}", "{}"))
    assert (with_them.test.expected, without.test.expected) == (TOP1, {})
    assert identity.changed(identity.settings(with_them)) == identity.changed(identity.settings(without))


@pytest.mark.parametrize(
    "change", ["optim.lr=0.1", "seed=1", "trainer.max_steps=3", "test.rotation=5", "data.clutter=3"]
)
def test_a_changed_setting_drops_the_expected_metrics(stating, change):
    """Another run than the file's is not held against the file's metrics."""
    assert load_experiment(stating("{top1: [73.2, 6]}"), [change]).test.expected == {}
    key, _, value = change.partition("=")
    assert load_experiment(stating("{top1: [73.2, 6]}"), parameters={key: json.loads(value)}).test.expected == {}


@pytest.mark.parametrize(
    "change", ["seed=0", "name=other", "out=elsewhere", "data.workers=2", "trainer.threads=1", "logger.wandb=false"]
)
def test_where_and_how_visibly_it_runs_keeps_them(stating, change):
    """Settings that leave the metrics as they are, or repeat the file, keep the expected metrics."""
    assert load_experiment(stating("{top1: [73.2, 6]}"), [change]).test.expected == TOP1


def test_the_command_line_states_its_own(stating):
    """Metrics of the command line replace the file's, and hold for the settings next to them."""
    words = ["test.expected={top5: [90, 2]}", "optim.lr=0.1"]
    assert load_experiment(stating("{top1: [73.2, 6]}"), words).test.expected == {"top5": [90, 2]}


def test_a_file_does_not_inherit_them(stating, tmp_path):
    """A file that extends another states other settings, so it starts without expected metrics."""
    stating("{top1: [73.2, 6]}")
    leaf = tmp_path / "leaf.yaml"
    leaf.write_text("extends: base.yaml\noptim: {lr: 0.1}\n")
    assert load_experiment(str(leaf)).test.expected == {}
    leaf.write_text("extends: base.yaml\ntest: {expected: {top5: [90, 2]}}\n")
    assert load_experiment(str(leaf)).test.expected == {"top5": [90, 2]}


def test_a_run_keeps_them_until_it_is_scored_otherwise(stating, tmp_path):
    """evaluate and resume compare a run with its metrics, unless the command line changes a setting."""
    (tmp_path / "config.yaml").write_text(to_yaml(load_experiment(stating("{top1: [73.2, 6]}"))))
    assert load_run(tmp_path).test.expected == TOP1
    assert load_run(tmp_path, ["data.workers=1"]).test.expected == TOP1
    for change in ("test.rotation=5", "trainer.max_steps=4"):
        assert load_run(tmp_path, [change], trains=True).test.expected == {}


@pytest.mark.parametrize(
    ("task", "network", "expected", "message"),
    [
        ("classification", "resnet", "{top_1: [70, 1]}", "'top_1'; nearest: top1; choose from: top1, top5"),
        ("segmentation", "deeplab", "{iou: [70, 1]}", "'iou'; nearest: miou; choose from: miou"),
        ("detection", "rfcn", "{ap_50: [70, 1]}", "'ap_50'; nearest: ap50; choose from: ap50, ap70"),
        (
            "classification",
            "resnet",
            "{top1: 70}",
            r"top1 is 70; it must be a value and a tolerance, such as \[73.2, 6\]",
        ),
        ("classification", "resnet", "{top1: [70]}", r"top1 is \[70\]; it must be a value and a tolerance"),
        ("classification", "resnet", "{top1: [seventy, 1]}", "it must be a value and a tolerance"),
        (
            "classification",
            "resnet",
            "{top1: [170, 1]}",
            "the value of test.expected.top1 is 170; .* between 0 and 100",
        ),
        ("classification", "resnet", "{top1: [.nan, 1]}", "the value of test.expected.top1 is nan"),
        ("classification", "resnet", "{top1: [70, 0]}", "the tolerance of test.expected.top1 is 0; it must be above 0"),
        ("classification", "resnet", "{top1: [70, -1]}", "the tolerance of test.expected.top1 is -1"),
        ("classification", "resnet", "{top1: [70, .inf]}", "the tolerance of test.expected.top1 is inf"),
        ("classification", "resnet", "[top1, 70]", "test.expected is .*; it must be a mapping"),
    ],
)
def test_wrong_expected_metrics_are_one_line(stating, task, network, expected, message):
    """A wrong name, value or tolerance is refused in one line that says what is right."""
    with pytest.raises(ConfigError, match=rf"\A[^\n]*{message}[^\n]*\Z"):
        load_experiment(stating(expected, task, network))
