"""The region proposal network (Ren et al. 2015), with the settings of the deformable networks' authors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes

from dcnlab.models.anchors import AnchorHead, AnchorPredictions, RPNSettings, Size, on_image


class RPN(AnchorHead):
    """Region proposal network: scores each anchor as object or background, and refines its box.

    One sigmoid for each anchor replaces the authors' softmax over two classes: the same function of half as many
    scores, as in torchvision. It runs on one map, or on the levels of a feature pyramid with the same weights.

    Args:
        in_channels: of every map.
        strides: of each map, in pixels.
        settings: all the rest; None: the defaults.
    """

    def __init__(self, in_channels: int, strides: Sequence[int], settings: RPNSettings | None = None) -> None:
        super().__init__(in_channels, strides, 1, settings or RPNSettings())

    @torch.no_grad()
    def proposals(self, predictions: AnchorPredictions, sizes: Sequence[Size]) -> list[Tensor]:
        """Boxes where objects may be, best first; no gradient goes through them.

        Args:
            predictions: of N images.
            sizes: true (h, w) of each image, to which boxes are clipped.

        Returns:
            For each image (n, 4) float32, n at most `settings.proposals`.
        """
        levels = torch.arange(len(predictions.per_level), device=predictions.anchors.device)
        level = levels.repeat_interleave(torch.tensor(predictions.per_level, device=levels.device))
        return [
            self._proposals(scores[:, 0], deltas, predictions.anchors, level, size)
            for scores, deltas, size in zip(predictions.scores, predictions.deltas, sizes, strict=True)
        ]

    def _proposals(self, scores: Tensor, deltas: Tensor, anchors: Tensor, level: Tensor, size: Size) -> Tensor:
        kept = []
        candidates = on_image(anchors, size)
        for number in range(len(self.strides)):
            anchors_of_level = (candidates & (level == number)).nonzero()[:, 0]
            best = scores[anchors_of_level].topk(min(self.settings.candidates, len(anchors_of_level))).indices
            kept.append(anchors_of_level[best])
        chosen = torch.cat(kept)
        boxes = self.box_coder.decode_single(deltas[chosen], anchors[chosen])
        boxes = clip_boxes_to_image(boxes, size)
        large = remove_small_boxes(boxes, 1e-3)
        boxes, chosen = boxes[large], chosen[large]
        best = batched_nms(boxes, scores[chosen], level[chosen], self.settings.nms_iou)
        return boxes[best[: self.settings.proposals]]
