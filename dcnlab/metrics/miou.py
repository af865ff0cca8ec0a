"""Mean intersection over union of a whole data set: one confusion matrix, summed over images and ranks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

IGNORE = 255


def confusion_matrix(predictions: Tensor, labels: Tensor, classes: int, ignore: int = IGNORE) -> Tensor:
    """Count the pixels of every pair of true and predicted class.

    Args:
        predictions: class of each pixel, whole numbers of any shape; 0..classes - 1 wherever the label counts.
        labels: of the same shape; 0..classes - 1, or `ignore` for pixels that do not count.
        classes: number of classes, C.
        ignore: the label of pixels that do not count. One of the classes' own numbers leaves that class out.

    Returns:
        (C, C) int64, rows the label, columns the prediction; on the labels' device.

    Raises:
        ValueError: shapes differ, the values are not whole numbers, or one of them that counts is not a class.
    """
    if predictions.shape != labels.shape:
        raise ValueError(
            f"predictions of shape {tuple(predictions.shape)} for labels of {tuple(labels.shape)}; they must be equal"
        )
    counts = labels != ignore
    counted = {}
    for what, pixels in (("label", labels), ("prediction", predictions)):
        if pixels.is_floating_point() or pixels.is_complex():
            raise ValueError(f"{what}s are {pixels.dtype}; classes are whole numbers: take argmax over the logits")
        values = pixels[counts].long()
        outside = values[(values < 0) | (values >= classes)]
        if len(outside):
            exempt = f" or {ignore}, which is ignored" if what == "label" else ""
            raise ValueError(f"{what} {int(outside[0])} is not a class; {what}s must lie in 0..{classes - 1}{exempt}")
        counted[what] = values
    pairs = counted["label"] * classes + counted["prediction"]
    return torch.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def iou_per_class(confusion: Tensor, ignore: int = IGNORE) -> Tensor:
    """Intersection over union of each class.

    Args:
        confusion: (C, C), as `confusion_matrix` gives it, of the whole data set.
        ignore: the label it was counted without.

    Returns:
        (C,) float64 in 0..1; nan for a class that is neither labelled nor predicted, and for the ignored one.
    """
    counts = confusion.double()
    hits = counts.diagonal()
    iou = hits / (counts.sum(0) + counts.sum(1) - hits)  # 0 / 0 is nan
    iou[torch.arange(len(iou), device=iou.device) == ignore] = torch.nan
    return iou


def mean_iou(confusion: Tensor, ignore: int = IGNORE) -> Tensor:
    """Mean of `iou_per_class` over the classes that have one; nan where none has."""
    return iou_per_class(confusion, ignore).nanmean()


def pixel_accuracy(confusion: Tensor) -> Tensor:
    """Fraction of the counted pixels whose prediction is their label; nan without pixels."""
    counts = confusion.double()
    return counts.diagonal().sum() / counts.sum()


class MeanIoU(Metric):
    """Mean IoU, percent; the same over any number of ranks, however many images each has.

    Its only state is the summed confusion matrix, in whole numbers, so the order of images and ranks does not matter.

    Args:
        classes: number of classes.
        ignore: the label of pixels that do not count.
        kwargs: of torchmetrics' Metric.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    confusion: Tensor

    def __init__(self, classes: int, ignore: int = IGNORE, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.classes, self.ignore = classes, ignore
        self.add_state("confusion", torch.zeros(classes, classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, predictions: Tensor, labels: Tensor) -> None:
        """Count some images' pixels; see `confusion_matrix`."""
        self.confusion += confusion_matrix(predictions, labels, self.classes, self.ignore)

    def compute(self) -> Tensor:
        """Mean IoU of all ranks' pixels, percent."""
        return 100 * mean_iou(self.confusion, self.ignore)

    def per_class(self) -> Tensor:
        """`iou_per_class` over all ranks' pixels, (C,) percent; every rank calls it."""
        return 100 * iou_per_class(self.total(), self.ignore)

    def accuracy(self) -> Tensor:
        """Pixel accuracy over all ranks' pixels, percent; every rank calls it."""
        return 100 * pixel_accuracy(self.total())

    def total(self) -> Tensor:
        """The confusion matrix of all ranks, (C, C) int64; every rank calls it."""
        with self.sync_context(dist_sync_fn=self.dist_sync_fn):
            return self.confusion.clone()
