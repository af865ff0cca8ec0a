"""WatchBest follows a metric over validations: what is better, what ends a training, and what is said then."""

import logging
from types import SimpleNamespace

import pytest

from dcnlab.training.callbacks.best import WatchBest


def validate(watch, values, metric):
    """Validations of these values in a row; whether the training is to end after each."""
    ends = []
    for step, value in enumerate(values):
        trainer = SimpleNamespace(
            state=SimpleNamespace(fn="fit"),
            sanity_checking=False,
            callback_metrics={metric: value},
            should_stop=False,
            global_step=10 * step,
        )
        watch.on_validation_end(trainer, None)
        ends.append(trainer.should_stop)
    return ends


@pytest.mark.parametrize(("metric", "values"), [("val/top1", [50, 60, 55, 60]), ("val/loss", [2.0, 1.0, 1.5, 1.0])])
def test_patience_counts_validations_that_are_not_better(metric, values):
    """Accuracy should rise and a loss fall; an equal value is not better."""
    watch = WatchBest(metric, None, 2)
    assert validate(watch, values, metric) == [False, False, False, True]
    assert watch.best == values[1]


def test_a_first_validation_that_is_nan_is_not_the_best():
    """A later number is better than none; with nan as the best nothing would ever be."""
    watch = WatchBest("val/miou", None, 2)
    assert validate(watch, [float("nan"), 5.0, float("nan")], "val/miou") == [False, False, False]
    assert watch.best == 5.0


def test_the_end_of_a_training_is_said_with_its_reason(caplog):
    """One line names the step, the metric, its best value and the key; later resumes do not repeat it."""
    watch = WatchBest("val/top1", None, 2)
    with caplog.at_level(logging.INFO, "dcnlab"):
        validate(watch, [50, 40, 45], "val/top1")
    assert caplog.messages == [
        "the training ends at step 20: val/top1 was not better than 50 in 2 validations (trainer.early_stop)"
    ]
