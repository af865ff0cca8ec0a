"""Metrics by their names: which ones tables show, and which way is better."""

from __future__ import annotations

import re


def is_headline(metric: str) -> bool:
    """Whether tables show a metric: not those of a single class (iou/CLASS), nor recall (ar100)."""
    return "/" not in metric and not re.fullmatch(r"ar(\d+|_.*)", metric)


def goal(metric: str) -> str:
    """Whether a higher or a lower value of a metric is better: maximize | minimize."""
    return "minimize" if re.search(r"loss|seconds|params|macs", metric) else "maximize"
