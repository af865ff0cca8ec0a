"""Compares the metrics of a test with those that the experiment states in `test.expected`."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from dcnlab.training.distributed.rank import is_rank_0

_LOG = logging.getLogger("dcnlab")


def compare(metrics: Mapping[str, float], expected: Mapping[str, Sequence[float]]) -> dict[str, dict[str, Any]]:
    """Compare the metrics of a test with the expected ones.

    Args:
        metrics: of the test, percent; without those that the test split cannot measure.
        expected: value and tolerance by the name of the metric, as in `test.expected`.

    Returns:
        The `expected` of results.json: value, tolerance and whether the test met them, by the name of the metric.
    """
    outcome = {}
    for name, (value, tolerance) in expected.items():
        met = name in metrics and abs(metrics[name] - value) <= tolerance
        outcome[name] = {"value": value, "tolerance": tolerance, "met": met}
    return outcome


def all_met(outcome: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether the test met every expected metric."""
    return all(entry["met"] for entry in outcome.values())


def report(metrics: Mapping[str, float], outcome: Mapping[str, Mapping[str, Any]]) -> None:
    """Log a line for each expected metric, on rank 0."""
    if not is_rank_0():
        return
    for name, entry in outcome.items():
        stated = f"{entry['value']:.2f} within {entry['tolerance']:.2f}"
        if entry["met"]:
            _LOG.info(f"{name} {metrics[name]:.2f}: expected {stated}, met")
        elif name in metrics:
            miss = abs(metrics[name] - entry["value"])
            _LOG.warning(f"{name} {metrics[name]:.2f}: expected {stated}, missed by {miss - entry['tolerance']:.2f}")
        else:
            _LOG.warning(f"{name}: expected {stated}, not measured by this test")
