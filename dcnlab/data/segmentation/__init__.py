"""Semantic segmentation: VOC, Cityscapes, CamVid and lists of images."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    """SegmentationSplit, imported on first use, so that importing another module of this folder stays quick."""
    if name == "SegmentationSplit":
        from dcnlab.data.segmentation.split import SegmentationSplit

        return SegmentationSplit
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
