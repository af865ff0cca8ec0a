"""The shifted bins of deformable RoI pooling (paper, figure 7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms

from dcnlab.models.image_batch import pad_images
from dcnlab.models.two_stage import TwoStageDetector
from dcnlab.nn import DeformPSRoIPool, DeformRoIPool

_IOU = 0.3
"""Of two RoIs of a class that overlap more, the better is shown."""


@dataclass(frozen=True)
class PooledRoI:
    """An RoI and the places that its bins are pooled from."""

    box: Tensor
    """(4,), x1, y1, x2, y2, in the image's pixels, continuous, from 0: the proposal, before it is refined."""
    label: int
    """1 to C, the class of the highest score."""
    score: float
    bins: Tensor
    """(k, k, 4), likewise; shifted by that class's offsets, where classes have their own."""


def has_deformable_pooling(model: nn.Module) -> bool:
    """Whether a network has deformable RoI pooling."""
    return any(isinstance(module, DeformRoIPool | DeformPSRoIPool) for module in model.modules())


def shifted_bins(boxes: Tensor, offset: Tensor, gamma: float) -> Tensor:
    """The bins of RoIs, as `dcnlab.ops.deform_ps_roi_pool` places them.

    Args:
        boxes: (R, 4), x1, y1, x2, y2 in pixels of the image; corners count as whole pixels, the last one included.
        offset: (R, 2, k, k), x before y, as a fraction of the box's width and height before gamma.
        gamma: factor of the offsets.

    Returns:
        (R, k, k, 4) float64, rows before columns; x1, y1, x2, y2, continuous, from 0. Without offsets the bins fill the
        RoI.
    """
    boxes, offset = boxes.double(), offset.double()
    corners = (boxes.abs() + 0.5).floor() * boxes.sign()  # halves away from zero
    start = corners[:, :2]
    size = corners[:, 2:] + 1 - start
    steps = torch.arange(offset.shape[-1], dtype=torch.float64, device=boxes.device) / offset.shape[-1]
    x, y = (
        start[:, axis, None, None] + size[:, axis, None, None] * (along + gamma * offset[:, axis])
        for axis, along in ((0, steps), (1, steps[:, None]))
    )
    width, height = (size / offset.shape[-1])[:, :, None, None].unbind(1)
    return torch.stack((x, y, x + width, y + height), -1)


def pooled_rois(model: TwoStageDetector, image: Tensor, least_score: float, most: int) -> list[PooledRoI]:
    """The RoIs of the surest classes and their shifted bins.

    Args:
        model: with deformable pooling, in evaluation mode.
        image: (3, H, W), normalised.
        least_score: an RoI whose best class scores less is left out; where all do, the best one stays.
        most: RoIs, best first; of a class, those that overlap a better one are left out.
    """
    with torch.no_grad():
        batch = pad_images([image], model.stride)
        maps = model.maps(batch.tensors)
        proposals = model.rpn.proposals(model.propose(maps), batch.image_sizes)[0].float()
        scores, labels = model.classify(maps, [proposals])[0].float().softmax(1)[:, 1:].max(1)
        chosen = batched_nms(proposals, scores, labels, _IOU)
        sure = chosen[scores[chosen] >= least_score]
        rois = []
        for row in (sure if len(sure) else chosen[:1])[:most].tolist():
            box, label = proposals[row], int(labels[row]) + 1
            bins = _bins_of(model, maps, box, label)
            rois.append(PooledRoI(box.cpu(), label, float(scores[row]), bins.cpu()))
    return rois


def _bins_of(model: TwoStageDetector, maps: Any, box: Tensor, label: int) -> Tensor:
    """One RoI's bins (k, k, 4), from the one pooling of class scores that it comes to (of a pyramid, its level's)."""
    seen: list[Tensor] = []

    def note(pool: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        if not len(output):
            return
        offset = pool.offsets(inputs[0], inputs[-1])
        classes = offset.unflatten(1, (-1, 2))
        seen.append(shifted_bins(box[None], classes[:, label if classes.shape[1] > 1 else 0], pool.gamma)[0])

    pools = [
        module
        for module in model.modules()
        if isinstance(module, DeformRoIPool) or (isinstance(module, DeformPSRoIPool) and module.classes > 1)
    ]
    handles = [pool.register_forward_hook(note) for pool in pools]
    try:
        model.classify(maps, [box[None]])
    finally:
        for handle in handles:
            handle.remove()
    (bins,) = seen
    return bins
