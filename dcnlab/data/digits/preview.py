"""Draws a contact sheet of training images, with their labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d
from torch.utils.data import Dataset
from torchvision.io import write_png
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks, make_grid

from dcnlab.data.digits.scenes import Scene

_COLOURS = ["#ff5c5c", "#5cc8ff", "#7dff6b", "#ffd24d", "#d78bff", "#ff9d5c", "#5cffd8", "#ff7bc8"]
_SIDE = 168  # pixels a picture's shorter side is enlarged to, so that names can be read


def _annotate(sample: Scene | tuple[Tensor, int], classes: Sequence[str]) -> Tensor:
    """Draw one picture as (3, H, W) uint8, with class names and, of a scene, boxes and the outlines of masks."""
    if isinstance(sample, Scene):
        image, labels, boxes, masks = sample.image, sample.labels, sample.boxes, sample.masks
    else:
        image, label = sample
        image = (image - image.min()) / (image.max() - image.min()).clamp(min=1e-6)
        labels, masks = torch.tensor([label]), torch.zeros(0, *image.shape[1:], dtype=torch.bool)
        boxes = torch.zeros(0, 4)
    zoom = max(1, round(_SIDE / min(image.shape[1:])))
    size = [zoom * side for side in image.shape[1:]]
    picture = (interpolate(image[None], size)[0] * 255).round().to(torch.uint8)
    colours = [_COLOURS[k % len(_COLOURS)] for k in range(len(labels))]
    if len(masks):
        solid = interpolate(masks[None].float(), size)[0]
        outline = (solid > 0) & (-max_pool2d(-solid[None], 3, 1, 1)[0] < 1)
        picture = draw_segmentation_masks(picture, outline, alpha=1.0, colors=colours)
    names = [classes[label] for label in labels]
    if len(boxes):
        return draw_bounding_boxes(picture, boxes * zoom, names, colors=colours, width=1)
    corner = torch.tensor([[0.0, 0.0, size[1] - 1.0, size[0] - 1.0]])
    return draw_bounding_boxes(picture, corner, names, colors=colours[:1], width=1)


def contact_sheet(
    dataset: Dataset[Scene] | Dataset[tuple[Tensor, int]],
    classes: Sequence[str],
    path: str | Path,
    rows: int = 4,
    columns: int = 8,
) -> Path:
    """Write the first pictures of a data set as one PNG, with class names, boxes and outlines of masks.

    Args:
        dataset: gives `Scene`s, or pairs of image (3, H, W) and label, all of one size.
        classes: class names in the order of their labels.
        path: of the PNG; its folder is made.
        rows: of pictures.
        columns: of pictures.

    Returns:
        The path.
    """
    path = Path(path)
    count = min(rows * columns, len(dataset))  # type: ignore[arg-type]
    pictures = [_annotate(dataset[index], classes) for index in range(count)]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(make_grid(pictures, nrow=columns, padding=4, pad_value=90), str(path))
    return path
