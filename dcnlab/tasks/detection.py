"""Object detection: trained by the detector's losses, scored by average precision of the whole split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from PIL.Image import Image
from pytorch_lightning import LightningModule
from torch import Tensor

from dcnlab.config.schema import OptimConfig, TestConfig
from dcnlab.data.seeding import mix
from dcnlab.metrics.boxes import AnnotatedImages, Detections
from dcnlab.metrics.coco_ap import coco_ap
from dcnlab.metrics.voc_ap import voc_ap, voc_metrics
from dcnlab.models.detector import Detector
from dcnlab.models.multi_scale import detect
from dcnlab.tasks.optim import optimizer_and_schedule
from dcnlab.tasks.pictures import detection_panel, to_picture
from dcnlab.tasks.step_means import StepMeans

Batch = tuple[list[Tensor], list[dict[str, Any]]]


class Detection(LightningModule):
    """Train and score a detector on batches of (images, targets); the data module's splits hold the ground truth.

    Logs `train/loss` and its parts of a step's images; `val/...` and `test/...` of the whole split, percent: ap50 and
    ap70 by VOC's protocols, COCO's twelve numbers and ap70 by COCO's, and each class's, `ap50/CLASS` or `ap/CLASS`.

    Args:
        model: any detector.
        classes: names, of labels 1..C in their order.
        protocol: coco | voc07, eleven points | voc, area under the curve.
        optim: rates, decay and schedule.
        test: sizes, mirroring and averaging of the test, and how many pictures are drawn.
        longer_sides: images of `test.shorter_sides` grow no longer than these, pixels; None: no limits.
        mean: of the images' normalisation, for pictures.
        std: likewise.
        seed: for the anchors and proposals that the losses sample.
    """

    def __init__(
        self,
        model: Detector,
        classes: Sequence[str],
        protocol: str,
        optim: OptimConfig,
        test: TestConfig,
        longer_sides: Sequence[int | None] | None,
        mean: Sequence[float],
        std: Sequence[float],
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.model, self.classes, self.protocol = model, list(classes), protocol
        self.optim, self.testing, self.longer_sides = optim, test, longer_sides
        self.mean, self.std, self.seed = mean, std, seed
        self.step_means = StepMeans()
        self._by_image: dict[int, dict[str, Tensor]] = {}
        self.detections: Detections | None = None
        """After a test, on rank 0: the detections of all images."""
        self.pictures: list[Image] = []
        self.metrics_over: dict[str, list[str]] = {}
        """After a test: the classes that its means include, and those that they leave out."""

    def forward(self, images: Sequence[Tensor]) -> Any:
        """Detections of images (3, h, w), as the model gives them."""
        return self.model(list(images))

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """The sum of the model's losses; their samples depend on seed, epoch and image alone."""
        images, targets = batch
        seeds = [mix(self.seed, self.current_epoch, int(target["image_id"])) for target in targets]
        seeded = [{**target, "seed": seed} for target, seed in zip(targets, seeds, strict=True)]
        losses = self.model(images, seeded)
        loss = torch.stack(list(losses.values())).sum()
        self.step_means.add({"train/loss": loss, **{f"train/{name}": value for name, value in losses.items()}})
        return loss

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Log the step's metrics."""
        self.log_dict(self.step_means.take(self.trainer))

    def validation_step(self, batch: Batch, index: int) -> None:
        """Detect in a batch of images, at their one size."""
        for detections, target, image in zip(self.model(batch[0]), batch[1], batch[0], strict=True):
            self._keep(detections, target, image)

    def on_validation_epoch_end(self) -> None:
        """Score the split, gathered from all ranks."""
        self._score("val", self.trainer.datamodule.val.ground_truth)  # type: ignore[attr-defined]

    def test_step(self, batch: Batch, index: int) -> None:
        """Detect in a batch of images with the options of the test, and draw the first of them."""
        options = self.testing
        for image, target in zip(*batch, strict=True):
            sides, rounds = options.shorter_sides, options.box_rounds
            detections = detect(self.model, image, sides, self.longer_sides, options.flip, rounds)
            self._keep(detections, target, image)
            if len(self.pictures) < options.pictures:
                picture = to_picture(image, self.mean, self.std)
                self.pictures.append(detection_panel(picture, target, detections, self.classes))

    def on_test_epoch_end(self) -> None:
        """Score the split, gathered from all ranks, and keep its detections."""
        self.detections = self._score("test", self.trainer.datamodule.test.ground_truth)  # type: ignore[attr-defined]

    def _keep(self, detections: Mapping[str, Tensor], target: Mapping[str, Any], image: Tensor) -> None:
        """Note an image's detections in the pixels of its file."""
        height, width = (original / resized for original, resized in zip(target["size"], image.shape[-2:], strict=True))
        boxes = detections["boxes"].float() * detections["boxes"].new_tensor([width, height, width, height]).float()
        numbers = {"boxes": boxes, "labels": detections["labels"], "scores": detections["scores"].float()}
        self._by_image[int(target["image_id"])] = {name: values.cpu() for name, values in numbers.items()}

    def _score(self, split: str, truth: AnnotatedImages | Mapping[str, Any]) -> Detections | None:
        """Log the scores, which rank 0 computes for all ranks from every image once.

        A class without an object has no score, and a split without one has none at all.

        Returns:
            On rank 0 the detections, on others None.
        """
        by_image, self._by_image = gathered(self._by_image), {}
        detections = None
        scores: dict[str, float] = {}
        if self.trainer.is_global_zero:
            detections = in_arrays(by_image)
            if self.protocol == "coco":
                scores = coco_ap(truth, detections)
            else:
                scores = voc_metrics(voc_ap(truth, detections, self.protocol))
        scores = self.trainer.strategy.broadcast(scores)
        known = {f"{split}/{name}": value for name, value in scores.items() if value == value}
        self.log_dict(known if split == "test" else {k: v for k, v in known.items() if k.count("/") == 1})
        if split == "test":
            key = "ap" if self.protocol == "coco" else "ap50"
            classes: dict[str, list[str]] = {"classes": [], "left_out": []}
            for name in self.classes:
                classes["classes" if f"test/{key}/{name}" in known else "left_out"].append(name)
            self.metrics_over = classes
        return detections

    def configure_optimizers(self) -> Any:
        """The optimizer over the groups of `parameter_groups`, its schedule advanced by a step."""
        optimizer, schedule = optimizer_and_schedule(self.model, self.optim, self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def gathered(by_image: dict[int, dict[str, Tensor]]) -> dict[int, dict[str, Tensor]]:
    """The detections of all ranks by image, in the order of the images."""
    parts: list[Any] = [by_image]
    if dist.is_available() and dist.is_initialized():
        parts = [None] * dist.get_world_size()
        dist.all_gather_object(parts, by_image)
    joined = {image: numbers for part in parts for image, numbers in part.items()}
    return dict(sorted(joined.items()))


def in_arrays(by_image: Mapping[int, Mapping[str, Tensor]]) -> Detections:
    """Put the detections of all images into flat arrays.

    Args:
        by_image: by position of the image: `boxes` (n, 4) as corners, `labels` (n,) from 1, and `scores` (n,).
    """
    parts = list(by_image.values())

    def column(name: str, shape: tuple[int, ...]) -> Tensor:
        return torch.cat([torch.empty(shape), *(part[name].detach() for part in parts)])

    boxes = column("boxes", (0, 4))
    boxes[:, 2:] -= boxes[:, :2]
    return Detections(
        images=np.repeat(np.array(list(by_image), np.int64), [len(part["labels"]) for part in parts]),
        classes=column("labels", (0,)).long().numpy() - 1,
        boxes=boxes.double().numpy(),
        scores=column("scores", (0,)).double().numpy(),
    )
