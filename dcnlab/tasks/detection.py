"""Object detection: trained by the detector's losses, scored by average precision of the whole split."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor, nn

from dcnlab.config.names import data_set
from dcnlab.config.schema import Config, OptimConfig, TestConfig
from dcnlab.data.photographs import IMAGENET_MEAN, IMAGENET_STD
from dcnlab.data.resize import longer_limits
from dcnlab.data.seeding import mix
from dcnlab.metrics.boxes import Detections, GroundTruth
from dcnlab.metrics.coco_ap import coco_ap
from dcnlab.metrics.detection_matches import detection_record
from dcnlab.metrics.voc_ap import voc_ap, voc_metrics
from dcnlab.models.multi_scale import detect
from dcnlab.tasks.box_pictures import detection_panel
from dcnlab.tasks.box_truth import in_arrays, matched, scaled_boxes, taken_from
from dcnlab.tasks.by_image import gathered
from dcnlab.tasks.optim import optimizer_and_schedule
from dcnlab.tasks.pictures import to_picture
from dcnlab.tasks.step_means import StepMeans
from dcnlab.tasks.task import Task, normalisation

Batch = tuple[Sequence[Tensor], Sequence[dict[str, Any]]]


class Detection(Task):
    """Train and score a detector on batches of (images, targets), as torchvision's detectors take them.

    A target holds `boxes` (n, 4), x1, y1, x2, y2, pixels, and `labels` (n,) 1..C; if known also `image_id`, a number of
    the image, `size`, height and width of its file, and `difficult` and `iscrowd` (n,), boxes that need not be found.
    The ground truth is that of our data modules, which know boxes that no target holds, or that of the targets.

    Logs `train/loss` and its parts of a step's images; `val/...` and `test/...` of the whole split, percent: ap50 and
    ap70 by VOC's protocols, COCO's twelve numbers and ap70 by COCO's, and each class's, `ap50/CLASS` or `ap/CLASS`.

    Args:
        model: any detector that is called as torchvision's are.
        classes: names, of labels 1..C in their order.
        protocol: coco | voc07, eleven points | voc, area under the curve.
        optim: rates, decay and schedule; None: the defaults.
        test: sizes, mirroring and averaging of the test, and how many pictures are drawn; None: the defaults.
        longer_sides: images of `test.shorter_sides` grow no longer than these, pixels; None: no limits.
        mean: of the images' normalisation, for pictures.
        std: likewise.
        seed: for the anchors and proposals that the losses sample.
    """

    def __init__(
        self,
        model: nn.Module,
        classes: Sequence[str],
        optim: OptimConfig | None = None,
        test: TestConfig | None = None,
        protocol: str = "voc",
        longer_sides: Sequence[int | None] | None = None,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        seed: int = 0,
    ) -> None:
        others: dict[str, Any] = {"protocol": protocol, "longer_sides": longer_sides, "seed": seed}
        super().__init__(model, classes, optim, test, **others, mean=mean, std=std)
        self.protocol, self.longer_sides = protocol, longer_sides
        self.mean, self.std, self.seed = mean, std, seed
        self.step_means = StepMeans()
        self._targets: dict[int, dict[str, Any]] = {}
        self._by_image: dict[int, dict[str, Tensor]] = {}
        self.detections: Detections | None = None
        """After a test, on rank 0: the detections of all images."""
        self.pictures: list[Image] = []
        self.metrics_over: dict[str, list[str]] = {}
        """After a test: the classes that its means include, and those that they leave out."""

    @classmethod
    def _arguments(cls, config: Config) -> dict[str, Any]:
        mean, std = normalisation(config)
        protocol = config.data.protocol or data_set(config.data.name).protocol
        sides, data = config.test.shorter_sides, config.data
        limits = longer_limits(sides, config.test.longer_sides, data.shorter_side, data.longer_side) if sides else None
        return {"protocol": protocol, "longer_sides": limits, "mean": mean, "std": std, "seed": config.seed}

    def forward(self, images: Sequence[Tensor]) -> Any:
        """Detections of images (3, h, w), as the model gives them."""
        return self.model(list(images))

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """The sum of the model's losses; their samples depend on seed, epoch and image alone."""
        images, targets = batch
        losses = self.model(list(images), [self._seeded(target) for target in targets])
        loss = torch.stack(list(losses.values())).sum()
        self.step_means.add({"train/loss": loss, **{f"train/{name}": value for name, value in losses.items()}})
        return loss

    def _seeded(self, target: dict[str, Any]) -> dict[str, Any]:
        """A target with the seed of its samples; unchanged if the image has no number."""
        if "image_id" not in target:
            return target
        return {**target, "seed": mix(self.seed, self.current_epoch, int(target["image_id"]))}

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Log the step's metrics."""
        self.log_dict(self.step_means.take(self.trainer))

    def validation_step(self, batch: Batch, index: int) -> None:
        """Detect in a batch of images, at their one size."""
        for detections, target, image in zip(self.model(list(batch[0])), batch[1], batch[0], strict=True):
            self._keep(detections, target, image)

    def on_validation_epoch_end(self) -> None:
        """Score the split, gathered from all ranks."""
        self._score("val")

    def test_step(self, batch: Batch, index: int) -> None:
        """Detect in a batch of images with the options of the test, and draw some of them."""
        options = self.testing
        for image, target in zip(*batch, strict=True):
            sides, rounds = options.shorter_sides, options.box_rounds
            detections = detect(self.model, image, sides, self.longer_sides, options.flip, rounds)
            if self._is_drawn(len(self._by_image)):
                picture = to_picture(image, self.mean, self.std)
                self.pictures.append(detection_panel(picture, target, detections, self.classes))
            self._keep(detections, target, image)

    def on_test_epoch_end(self) -> None:
        """Score the split, gathered from all ranks, and keep its detections."""
        self.detections = self._score("test")

    def _keep(self, detections: Mapping[str, Tensor], target: Mapping[str, Any], image: Tensor) -> None:
        """Note an image's detections and boxes in the pixels of its file."""
        unnamed = len(self._by_image) * self.trainer.world_size + self.trainer.global_rank
        number = int(target.get("image_id", unnamed))
        size = tuple(int(side) for side in target.get("size", image.shape[-2:])[-2:])
        boxes = scaled_boxes(detections["boxes"], image.shape[-2:], size)
        numbers = {"boxes": boxes, "labels": detections["labels"], "scores": detections["scores"].float()}
        self._by_image[number] = {name: values.cpu() for name, values in numbers.items()}
        kept = {key: value.cpu() for key, value in target.items() if isinstance(value, Tensor) and value.dim()}
        self._targets[number] = {**kept, "boxes": scaled_boxes(kept["boxes"], image.shape[-2:], size), "size": size}

    def _truth(self, split: str) -> Callable[[], GroundTruth]:
        """What makes the ground truth of a split, of the data module or of all ranks' targets."""
        targets, self._targets = self._targets, {}
        data: Any = getattr(getattr(self.trainer, "datamodule", None), split, None)
        if hasattr(type(data), "ground_truth"):
            return lambda: GroundTruth.taken(data.ground_truth)
        joined = gathered(targets)
        return lambda: taken_from(joined, self.classes)

    def _score(self, split: str) -> Detections | None:
        """Log the scores, which rank 0 computes for all ranks from every image once.

        A class without an object has no score, and a split without one has none at all.

        Returns:
            On rank 0 the detections, on others None.
        """
        by_image, self._by_image = gathered(self._by_image), {}
        make_truth = self._truth(split)
        detections = None
        scores: dict[str, float] = {}
        if self.trainer.is_global_zero:
            detections = in_arrays(by_image)
            pair = matched(make_truth(), detections, list(by_image))
            if split == "test":
                self.test_record = detection_record(*pair, self.protocol)
            if self.protocol == "coco":
                scores = coco_ap(*pair)
            else:
                scores = voc_metrics(voc_ap(*pair, self.protocol))
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
