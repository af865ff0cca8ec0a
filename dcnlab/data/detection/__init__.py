"""Object detection: VOC, COCO and data sets in their formats."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    """DetectionSplit, imported on first use, so that importing another module of this folder stays quick."""
    if name == "DetectionSplit":
        from dcnlab.data.detection.split import DetectionSplit

        return DetectionSplit
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
