"""Semantic segmentation: trained by cross entropy over pixels, scored by mean IoU of the whole split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor, nn
from torch.nn.functional import interpolate

from dcnlab.config.schema import Config, OptimConfig, TestConfig
from dcnlab.data.photographs import IMAGENET_MEAN, IMAGENET_STD
from dcnlab.metrics import confusion
from dcnlab.metrics.miou import MeanIoU, confusion_matrix
from dcnlab.metrics.segmentation_record import SegmentationRecord, sums_of
from dcnlab.models.deeplab import DeepLab
from dcnlab.tasks.by_image import ByImage
from dcnlab.tasks.label_pictures import segmentation_panel
from dcnlab.tasks.optim import optimizer_and_schedule
from dcnlab.tasks.pictures import to_picture
from dcnlab.tasks.step_means import StepMeans
from dcnlab.tasks.task import Task, normalisation


class Segmentation(Task):
    """Train and score a segmentation network on batches of (images, labels).

    Logs `train/loss` of a step's images, `val/miou` and `test/miou` of the whole split, and `test/iou/CLASS`, percent.

    Args:
        model: images (N, 3, H, W) to logits (N, number of classes, H, W). Its `loss(logits, labels)` trains it, or
            DeepLab's where it has none.
        classes: names in the order of their labels.
        optim: rates, decay and schedule; None: the defaults.
        test: scales and mirroring that probabilities are averaged over, and how many pictures are drawn; None: the
            defaults.
        mean: of the images' normalisation, for pictures.
        std: likewise.
    """

    def __init__(
        self,
        model: nn.Module,
        classes: Sequence[str],
        optim: OptimConfig | None = None,
        test: TestConfig | None = None,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__(model, classes, optim, test, mean=mean, std=std)
        self.mean, self.std = mean, std
        self.val_scores, self.test_scores = MeanIoU(len(classes)), MeanIoU(len(classes))
        self.step_means = StepMeans()
        self._test_images = ByImage()
        self.pictures: list[Image] = []
        self.metrics_over: dict[str, list[str]] = {}
        """After a test: the classes that its means include, and those that they leave out."""

    @classmethod
    def _arguments(cls, config: Config) -> dict[str, Any]:
        return dict(zip(("mean", "std"), normalisation(config), strict=True))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes, H, W) of images (N, 3, H, W)."""
        return self.model(images)

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """Cross entropy of a batch, see `DeepLab.loss`."""
        images, labels = batch
        loss = getattr(self.model, "loss", DeepLab.loss)(self(images), labels)
        self.step_means.add({"train/loss": loss})
        return loss

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Log the step's metrics."""
        self.log_dict(self.step_means.take(self.trainer))

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        """Count a batch's pixels."""
        images, labels = batch
        if len(images):
            self.val_scores.update(segment(self.model, images, labels.shape[-2:]), labels)

    def on_validation_epoch_end(self) -> None:
        """Score the split over all ranks; a split whose pixels are all ignored has no score."""
        miou = self.val_scores.compute()
        if not miou.isnan():
            self.log("val/miou", miou)
        self.val_scores.reset()

    def test_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        """Count a batch's pixels, and draw some of its images."""
        images, labels = batch
        if not len(images):
            return
        predictions = segment(self.model, images, labels.shape[-2:], self.testing.scales, self.testing.flip)
        self.test_scores.update(predictions, labels)
        for image, label, prediction in zip(images, labels, predictions, strict=True):
            counts = confusion_matrix(prediction, label, len(self.classes))
            if self._is_drawn(len(self._test_images)):
                picture = to_picture(image, self.mean, self.std)
                self.pictures.append(segmentation_panel(picture, label, prediction, self.classes))
            self._test_images.add(self.trainer, sums_of(counts.cpu().numpy()))

    def on_test_epoch_end(self) -> None:
        """Score the split over all ranks; a class that is neither labelled nor found has no score.

        There is no score where all pixels are ignored, as in test splits without published labels.
        """
        by_image = self._test_images.take()
        if self.trainer.is_global_zero:
            self.test_record = SegmentationRecord.of(self.classes, by_image)
        self.confusion = confusion.of(self.classes, self.test_scores.total().cpu(), "pixels")
        miou, each = self.test_scores.compute(), self.test_scores.per_class()
        scores = {"test/miou": miou, **{f"test/iou/{name}": iou for name, iou in zip(self.classes, each, strict=True)}}
        known = {name: value.float() for name, value in scores.items() if not value.isnan()}
        self.log_dict(known)
        self.test_scores.reset()
        classes: dict[str, list[str]] = {"classes": [], "left_out": []}
        for name in self.classes:
            classes["classes" if f"test/iou/{name}" in known else "left_out"].append(name)
        self.metrics_over = classes

    def configure_optimizers(self) -> Any:
        """The optimizer over the groups of `parameter_groups`, its schedule advanced by a step."""
        optimizer, schedule = optimizer_and_schedule(self.model, self.optim, self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def segment(
    model: nn.Module, images: Tensor, size: Sequence[int], scales: Sequence[float] = (1.0,), flip: bool = False
) -> Tensor:
    """The class of each pixel, by the class probabilities' mean over scales and mirror images.

    Args:
        model: images to logits of their size.
        images: (N, 3, h, w).
        size: (H, W) of the labels; logits are brought to it, not labels to the logits.
        scales: factors on the images' size.
        flip: whether mirror images are averaged too.

    Returns:
        (N, H, W) int64.
    """
    total: Tensor | None = None
    for scale in scales:
        side = [max(1, round(scale * length)) for length in images.shape[-2:]]
        scaled = images if scale == 1 else _resize(images, side)
        for mirrored in (False, True) if flip else (False,):
            logits = model(scaled.flip(-1) if mirrored else scaled).float()
            probabilities = interpolate(logits, tuple(size), mode="bilinear", align_corners=False).softmax(1)
            probabilities = probabilities.flip(-1) if mirrored else probabilities
            total = probabilities if total is None else total + probabilities
    assert total is not None
    return total.max(1).indices  # argmax takes ten times as long on a CPU


def _resize(images: Tensor, side: Sequence[int]) -> Tensor:
    """Images of another size; in float32 at least, because torch cannot smooth half precision on a CPU."""
    precise = images.to(torch.promote_types(images.dtype, torch.float32))
    return interpolate(precise, tuple(side), mode="bilinear", antialias=True).to(images.dtype)
