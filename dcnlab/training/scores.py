"""Scores of the test split: taken, named as in results.json, and compared with what the experiment expects."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

from dcnlab.config.schema import Config
from dcnlab.training import expected, results_file
from dcnlab.training.distributed.rank import is_rank_0
from dcnlab.training.outcome import Diverged
from dcnlab.training.parts import Parts


def score_test_split(parts: Parts, checkpoint: Path | None = None) -> dict[str, float]:
    """Score the test split.

    Args:
        parts: of the run.
        checkpoint: to load; None keeps the weights as they are.
    """
    scores = parts.trainer.test(
        parts.task, datamodule=parts.data, ckpt_path=checkpoint, verbose=False, weights_only=True
    )
    return dict(scores[0])


def metrics_of(scores: dict[str, float]) -> dict[str, float]:
    """Test scores under the names of results.json: `test/top1` is `top1`.

    Raises:
        Diverged: a score is not finite.
    """
    for key, value in scores.items():
        if not math.isfinite(value):
            raise Diverged(f"the training diverged: {key} is {value}; a lower optim.lr may help")
    return {key.removeprefix("test/"): value for key, value in scores.items()}


def verify(metrics: dict[str, float], config: Config) -> dict[str, dict[str, Any]]:
    """Compare metrics with `test.expected`, and log a line for each; the `expected` of results.json."""
    outcome = expected.compare(metrics, config.test.expected)
    expected.report(metrics, outcome)
    return outcome


def classes_in_means(parts: Parts) -> dict[str, Any]:
    """The `metrics_over` of results.json; empty for tasks whose metrics are not means over classes."""
    classes = getattr(parts.task, "metrics_over", None)
    return {"metrics_over": classes} if classes else {}


def warn_of_left_out_classes(content: dict[str, Any]) -> None:
    """Say, on rank 0, which classes the means leave out."""
    text = results_file.means_over(content)
    if text is not None and is_rank_0():
        logging.getLogger("dcnlab").warning(f"note: {text}")
