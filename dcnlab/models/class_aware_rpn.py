"""Class-aware RPN: detections straight from the anchors, a simplified SSD (paper, section 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.image_list import ImageList

from dcnlab.models.anchors import AnchorHead, AnchorPredictions, RPNSettings, on_image
from dcnlab.models.backbone import Backbone
from dcnlab.models.detector import Detections, DetectionSettings, Detector
from dcnlab.models.initialisation import init_new_layers


class ClassAwareRPN(Detector):
    """An RPN on a 1x1 convolution of res5, whose classifier tells C + 1 classes; its boxes are the detections.

    The paper calls it almost the same as the RPN but for the classifier, and says no more. So everything else is the
    RPN's here: anchors, the 3x3 convolution to 512 channels, boxes that no class has for itself, 256 anchors of an
    image, half of them positive, from IoU 0.7 (and the best of each box), negative below 0.3. Table 4's 46.0M has no
    room for the 3x3 convolution's 4.7M: either it was counted without the RPN's layers, as the two-stage detectors
    were, or there was none, which `RPNSettings(hidden_channels=None)` builds. In test, `rpn.candidates` says how many
    pairs of an anchor and a class, the best of the image, come to non-maximum suppression; `rpn.nms_iou` and
    `rpn.proposals` say nothing here.

    Args:
        backbone: its res5 carries the head.
        num_classes: C, without the background.
        channels: of the 1x1 convolution.
        rpn, detections: numbers of the anchors and of the test; None: the defaults.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        channels: int = 1024,
        rpn: RPNSettings | None = None,
        detections: DetectionSettings | None = None,
    ) -> None:
        super().__init__(max(backbone.strides.values()), detections)
        self.backbone = backbone
        self.reduce = nn.Conv2d(backbone.channels["res5"], channels, 1)
        self.rpn = AnchorHead(channels, [backbone.strides["res5"]], num_classes + 1, rpn or RPNSettings())
        init_new_layers(self.reduce)

    def predict(self, images: Tensor) -> AnchorPredictions:
        """The head's scores and deltas for every anchor of images (N, 3, H, W)."""
        return self.rpn([functional.relu(self.reduce(self.backbone(images)["res5"]))])

    def losses(self, batch: ImageList, targets: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """The two losses of the sampled anchors, each of weight one."""
        classes, boxes = self.rpn.losses(self.predict(batch.tensors), batch.image_sizes, targets)
        return {"loss_classes": classes, "loss_boxes": boxes}

    def score(self, batch: ImageList, proposals: Sequence[Tensor] | None) -> list[Detections]:
        """Class probabilities and boxes of the anchors."""
        predictions, candidates = self.predict(batch.tensors), []
        for scores, deltas, size in zip(predictions.scores, predictions.deltas, batch.image_sizes, strict=True):
            here = on_image(predictions.anchors, size)
            probabilities = scores[here].softmax(1)[:, 1:]
            boxes = self.rpn.box_coder.decode_single(deltas[here], predictions.anchors[here])
            max_candidates = self.rpn.settings.candidates
            candidates.append(self.detections.scored(probabilities, boxes[:, None], size, max_candidates))
        return candidates
