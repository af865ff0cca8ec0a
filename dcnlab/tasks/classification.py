"""Image classification: trained by cross entropy, scored by accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from dcnlab.config.schema import Config, OptimConfig, TestConfig
from dcnlab.data.classification.rotation import turn
from dcnlab.data.photographs import IMAGENET_MEAN, IMAGENET_STD
from dcnlab.metrics import confusion
from dcnlab.metrics.classification_record import ClassificationRecord
from dcnlab.tasks.by_image import ByImage
from dcnlab.tasks.class_pictures import class_panel
from dcnlab.tasks.optim import optimizer_and_schedule
from dcnlab.tasks.pictures import to_picture
from dcnlab.tasks.step_means import StepMeans
from dcnlab.tasks.task import Task, normalisation


class TopK(MulticlassAccuracy):
    """Percentage of the images whose class is among the k highest logits; exact over any number of ranks.

    Args:
        classes: number of classes.
        k: at most the number of classes.
    """

    def __init__(self, classes: int, k: int = 1) -> None:
        super().__init__(num_classes=classes, top_k=k, average="micro", validate_args=False)

    def compute(self) -> Tensor:
        """Divide the counts, summed over all ranks, once."""
        return 100 * super().compute()


def is_among_top(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """Whether the class of each image (N,) is among its k highest logits (N, C); the first of equals for k of 1."""
    top = logits.argmax(1, keepdim=True) if k == 1 else logits.topk(k, 1).indices
    return (top == labels[:, None]).any(1)


class Classification(Task):
    """Train and score a classifier on batches of (images, labels).

    Logs `train/loss` and `train/top1` of a step's images; `val/top1` and `test/top1` of the whole split, and `top5`
    where there are more than five classes; percent.

    Args:
        model: images (N, 3, H, W) to logits (N, number of classes).
        classes: class names in the order of their labels.
        optim: rates, decay and schedule; None: the defaults.
        test: by how much test images are rotated and scaled; None leaves them as they are.
        background: value of the pixels that come into them from outside, in the network's input.
        mean: of the images' normalisation, for pictures.
        std: likewise.
    """

    def __init__(
        self,
        model: nn.Module,
        classes: Sequence[str],
        optim: OptimConfig | None = None,
        test: TestConfig | None = None,
        background: float = 0.0,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__(model, classes, optim, test, background=background, mean=mean, std=std)
        self.background, self.mean, self.std = background, mean, std
        self._drawn: list[tuple[Image, str]] = []
        self.pictures: list[Image] = []
        """After a test: one picture of some images, each with its class and the class that was found."""
        self.step_means = StepMeans()
        ks = (1, 5) if len(classes) > 5 else (1,)
        self._test_images, self._tops = ByImage(), {f"top{k}": k for k in ks}
        scores = MetricCollection({f"top{k}": TopK(len(classes), k) for k in ks}, compute_groups=False)
        self.val_scores, self.test_scores = scores.clone(prefix="val/"), scores.clone(prefix="test/")
        self._confusion = MulticlassConfusionMatrix(len(classes), validate_args=False)

    @classmethod
    def _arguments(cls, config: Config) -> dict[str, Any]:
        mean, std = normalisation(config)
        background = -mean[0] / std[0] if config.data.name == "digits" else 0.0
        return {"background": background, "mean": mean, "std": std}

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, number of classes) of images (N, 3, H, W)."""
        return self.model(images)

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """Cross entropy of a batch, mean over its images."""
        images, labels = batch
        logits = self(images)
        loss = cross_entropy(logits, labels, label_smoothing=self.optim.label_smoothing)
        correct = (logits.argmax(1) == labels).float().mean()
        self.step_means.add({"train/loss": loss, "train/top1": 100 * correct})
        return loss

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Log the step's metrics."""
        self.log_dict(self.step_means.take(self.trainer))

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        """Count the correct images of a batch."""
        self._score(self.val_scores, batch)

    def test_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        """Count the correct images of a batch."""
        images, labels = batch
        rotated = turn(images, self.testing.rotation, self.testing.magnification, self.background)
        logits = self._score(self.test_scores, (rotated, labels))
        if logits is not None:
            self._confusion.update(logits.argmax(1), labels)
            correct = torch.stack([is_among_top(logits, labels, k) for k in self._tops.values()], 1)
            for number, image in enumerate(correct.cpu().numpy()):
                if len(rotated[number]) == 3 and self._is_drawn(len(self._test_images)):
                    self._draw(rotated[number], int(labels[number]), logits[number])
                self._test_images.add(self.trainer, image)

    def _draw(self, image: Tensor, label: int, logits: Tensor) -> None:
        """Keep a picture of an image, with its class and the class that was found."""
        probability, best = logits.float().softmax(0).max(0)
        wrong = "" if int(best) == label else f", found {self.classes[int(best)]}"
        self._drawn.append((to_picture(image, self.mean, self.std), f"{self.classes[label]}{wrong} {probability:.2f}"))

    def on_test_epoch_end(self) -> None:
        """Keep which images were right and what was found, gathered from all ranks, and the pictures of some."""
        self.confusion = confusion.of(self.classes, self._confusion.compute().cpu(), "images")
        self._confusion.reset()
        self.pictures = [class_panel(self._drawn)] if self._drawn else []
        self._drawn = []
        by_image = self._test_images.take()
        if self.trainer.is_global_zero:
            correct = np.array(list(by_image.values()), np.bool_).reshape(-1, len(self._tops)).T
            self.test_record = ClassificationRecord(tuple(map(str, by_image)), tuple(self._tops), correct)

    def _score(self, scores: MetricCollection, batch: tuple[Tensor, Tensor]) -> Tensor | None:
        """Count the correct images of a batch; gives its logits, None for a batch without images."""
        images, labels = batch
        logits = self(images) if len(images) else None
        if logits is not None:
            scores.update(logits, labels)
        self.log_dict(dict(scores.items()), on_step=False, on_epoch=True, batch_size=len(images))
        return logits

    def configure_optimizers(self) -> Any:
        """The optimizer over the groups of `parameter_groups`, its schedule advanced by a step."""
        optimizer, schedule = optimizer_and_schedule(self.model, self.optim, self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
