"""Metrics by their names: which ones tables show, and which way is better."""

from __future__ import annotations

import re


def is_headline(metric: str) -> bool:
    """Whether tables show a metric: not those of a single class (iou/CLASS), nor recall (ar100)."""
    return "/" not in metric and not re.fullmatch(r"ar(\d+|_.*)", metric)


_SPOKEN = {"top1": "top-1 accuracy", "top5": "top-5 accuracy", "miou": "mean IoU", "iou": "IoU", "ap": "AP"}


def spoken(metric: str) -> str:
    """A metric's name as people write it: top-1 accuracy, mean IoU, AP50, IoU of road; others stay as they are."""
    family, slash, name = metric.partition("/")
    if match := re.fullmatch(r"(ap|ar)(\d+)", family):
        words = f"{match[1].upper()}{match[2]}"
    else:
        words = _SPOKEN.get(family, family)
    return f"{words} of {name}" if slash else words


def goal(metric: str) -> str:
    """Whether a higher or a lower value of a metric is better: maximize | minimize."""
    return "minimize" if re.search(r"loss|seconds|params|macs", metric) else "maximize"
