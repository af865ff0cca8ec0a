"""Two-stage detectors: an RPN proposes boxes, and a head pools, classifies and refines them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torchvision.models.detection.image_list import ImageList

from dcnlab.models.anchors import AnchorPredictions
from dcnlab.models.detector import Detections, DetectionSettings, Detector
from dcnlab.models.roi_sampling import RoISampling, roi_losses
from dcnlab.models.rpn import RPN

Maps = dict[str, Tensor]
LAST_PIXEL = 1.0
"""Pixels from a box's last pixel, where the authors' boxes end, to its far edge, where continuous boxes end."""


class TwoStageDetector(Detector):
    """Joint training of an RPN and a head on shared features; a subclass defines both.

    Args:
        rpn: proposes.
        stride: the images' sides are padded with zeros to multiples of it.
        sampling: of the proposals that train the head; None: the defaults.
        hardest: RoIs of an image that online hard example mining leaves; None: no mining.
        detections: settings of the test; None: the defaults.
        exact_rois: pool the boxes exactly: moves their far edges back by the pixel that pooling adds.
    """

    takes_proposals = True

    def __init__(
        self,
        rpn: RPN,
        stride: int,
        sampling: RoISampling | None,
        hardest: int | None,
        detections: DetectionSettings | None,
        exact_rois: bool = False,
    ) -> None:
        super().__init__(stride, detections)
        self.rpn = rpn
        self.sampling = sampling or RoISampling()
        self.hardest = hardest
        self.exact_rois = exact_rois

    @abstractmethod
    def maps(self, images: Tensor) -> Maps:
        """Feature maps of (N, 3, H, W)."""

    @abstractmethod
    def propose(self, maps: Maps) -> AnchorPredictions:
        """The RPN's scores and deltas."""

    def pooled(self, boxes: list[Tensor]) -> list[Tensor]:
        """Boxes (L, 4) of each image as the pooling takes them."""
        if not self.exact_rois:
            return boxes
        return [box - box.new_tensor([0.0, 0.0, LAST_PIXEL, LAST_PIXEL]) for box in boxes]

    @abstractmethod
    def classify(self, maps: Maps, boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The head's scores and deltas of boxes (L, 4) of each image, R in all.

        Returns:
            (R, C + 1) scores before softmax and (R, K, 4) deltas, K either C + 1 or 2.
        """

    def losses(self, batch: ImageList, targets: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """The four losses of joint training, each of weight one."""
        maps = self.maps(batch.tensors)
        predictions = self.propose(maps)
        rpn_objectness, rpn_boxes = self.rpn.losses(predictions, batch.image_sizes, targets)
        rois = self.sampling.sample(self.rpn.proposals(predictions, batch.image_sizes), targets)
        classes, boxes = roi_losses(*self.classify(maps, rois.boxes), rois, self.hardest)
        return {
            "loss_rpn_objectness": rpn_objectness,
            "loss_rpn_boxes": rpn_boxes,
            "loss_classes": classes,
            "loss_boxes": boxes,
        }

    def score(self, batch: ImageList, proposals: Sequence[Tensor] | None) -> list[Detections]:
        """Class probabilities and refined boxes of the proposals."""
        maps = self.maps(batch.tensors)
        if proposals is None:
            proposals = self.rpn.proposals(self.propose(maps), batch.image_sizes)
        rois = [proposed.float() for proposed in proposals]
        scores, deltas = (output.float() for output in self.classify(maps, rois))
        coder, candidates = self.sampling.box_coder, []
        lengths = [len(boxes) for boxes in rois]
        parts = zip(rois, scores.softmax(1).split(lengths), deltas.split(lengths), batch.image_sizes, strict=True)
        for image_rois, probabilities, image_deltas, size in parts:
            # The first box is the background's, whether each class has a box or all classes have the second.
            boxes = coder.decode_single(image_deltas[:, 1:].flatten(1), image_rois).unflatten(1, (-1, 4))
            candidates.append(self.detections.scored(probabilities[:, 1:], boxes, size))
        return candidates
