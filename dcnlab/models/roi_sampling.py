"""Sampling of proposals that train a detection head, their targets and loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.ops import box_iou

from dcnlab.models.balanced_sample import balanced_sample


class SampledRoIs(NamedTuple):
    """Sampled proposals of a batch with labels and box targets; R counts those of all images."""

    boxes: list[Tensor]
    """(L, 4) for each image."""
    labels: Tensor
    """(R,), 0 for the background."""
    box_targets: Tensor
    """(R, 4), the matched box as deltas of the proposal over `box_std`; zero for the background."""


@dataclass(frozen=True)
class RoISampling:
    """Settings of the sampling (paper, section 4.1, and the authors' code)."""

    rois: int | None = 128
    """Of an image; None: all of them, for hard example mining."""
    positive_fraction: float = 0.25
    """Maximum fraction of positive RoIs."""
    positive_iou: float = 0.5
    """Minimum IoU at which a proposal takes the label of the box that it overlaps most; below, it is background."""
    least_negative_iou: float = 0.0
    """Minimum IoU of a background proposal, in an image with boxes; below, it is not sampled."""
    box_std: tuple[float, float, float, float] = (0.1, 0.1, 0.2, 0.2)
    """Divides the box deltas x, y, log width, log height."""

    @property
    def box_coder(self) -> BoxCoder:
        """Turns boxes into deltas and back."""
        x, y, width, height = (1 / std for std in self.box_std)
        return BoxCoder((x, y, width, height))

    def sample(self, proposals: Sequence[Tensor], targets: Sequence[dict[str, Any]]) -> SampledRoIs:
        """Append each image's boxes to its proposals, match them, and draw from them.

        Args:
            proposals: (n, 4) for each image.
            targets: `boxes` (m, 4) and `labels` (m,) 1..C of each; `seed`, if present, is that of the draw.
        """
        boxes, labels, box_targets = zip(
            *(
                self._sample(proposed, target["boxes"].float(), target["labels"], target.get("seed"))
                for proposed, target in zip(proposals, targets, strict=True)
            ),
            strict=True,
        )
        return SampledRoIs(list(boxes), torch.cat(labels), torch.cat(box_targets))

    def _sample(
        self, proposed: Tensor, boxes: Tensor, labels: Tensor, seed: int | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        rois = torch.cat((proposed.float(), boxes))
        roi_labels = labels.new_zeros(len(rois))
        matched = rois.clone()
        if len(boxes):
            overlaps = box_iou(boxes, rois)
            matches = Matcher(self.positive_iou, self.positive_iou)(overlaps)
            matched = boxes[matches.clamp(min=0)]
            roi_labels = torch.where(matches >= 0, labels[matches.clamp(min=0)], 0)
            roi_labels[overlaps.max(dim=0).values < self.least_negative_iou] = -1
        if self.rois is None:
            drawn = (roi_labels >= 0).nonzero()[:, 0]
        else:
            positive, negative = balanced_sample(roi_labels, self.rois, self.positive_fraction, seed)
            drawn = (positive | negative).nonzero()[:, 0]
        rois, roi_labels, matched = rois[drawn], roi_labels[drawn], matched[drawn]
        box_targets = torch.zeros_like(rois)
        positives = roi_labels > 0
        box_targets[positives] = self.box_coder.encode_single(matched[positives], rois[positives])
        return rois, roi_labels, box_targets


def roi_losses(scores: Tensor, deltas: Tensor, rois: SampledRoIs, hardest: int | None = None) -> tuple[Tensor, Tensor]:
    """Cross-entropy, and smooth L1 with sigma 1 of the positive RoIs, each over the number of an image's RoIs.

    Both are means over the images, so that a batch trains as its images do on separate ranks.

    Args:
        scores: (R, C + 1) before softmax.
        deltas: (R, K, 4), K either C + 1, one box for each class, or 2, background and foreground.
        rois: of the same R.
        hardest: online hard example mining (Shrivastava et al. 2016): only the so many RoIs of each image with the
            highest sum of both losses count. None: all.
    """
    scores, deltas = scores.float(), deltas.float()
    class_losses = functional.cross_entropy(scores, rois.labels, reduction="none")
    positive = (rois.labels > 0).nonzero()[:, 0]
    predicted = deltas[positive, rois.labels[positive].clamp(max=deltas.shape[1] - 1)]
    positive_losses = functional.smooth_l1_loss(predicted, rois.box_targets[positive], reduction="none").sum(1)
    box_losses = torch.zeros_like(class_losses).index_put((positive,), positive_losses)
    weights = torch.zeros_like(class_losses)
    both, first = (class_losses + box_losses).detach(), 0
    for boxes in rois.boxes:
        rois_of_image = slice(first, first + len(boxes))
        counted = min(len(boxes), hardest or len(boxes))
        weights[rois_of_image][both[rois_of_image].topk(counted).indices] = 1 / (len(rois.boxes) * max(1, counted))
        first += len(boxes)
    return (class_losses * weights).sum(), (box_losses * weights).sum()
