"""Draws a contact sheet of scenes of digits: boxes, outlines of masks, and names next to the digits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d
from torch.utils.data import Dataset
from torchvision.transforms.v2.functional import to_pil_image
from torchvision.utils import draw_segmentation_masks

from dcnlab.data.digits.scenes import Scene
from dcnlab.io.atomic import write_whole
from dcnlab.tasks.box_drawing import class_colours, draw_boxes
from dcnlab.tasks.class_pictures import class_panel
from dcnlab.tasks.pictures import grid, png

_SIDE = 224
"""Pixels that a scene's shorter side is enlarged to, at least, so that names can be read."""
_GAP = 4


def _scene(scene: Scene, classes: Sequence[str]) -> Image.Image:
    """A scene with the boxes and outlines of its digits; a name stands outside its box where there is room."""
    zoom = max(1, -(-_SIDE // min(scene.image.shape[1:])))
    size = [zoom * side for side in scene.image.shape[1:]]
    picture = (interpolate(scene.image[None], size)[0] * 255).round().to(torch.uint8)
    labels = [int(label) for label in scene.labels]
    colours = class_colours(classes)
    solid = interpolate(scene.masks[None].float(), size)[0]
    outline = (solid > 0) & (-max_pool2d(-solid[None], 3, 1, 1)[0] < 1)
    chosen: list[str | tuple[int, int, int]] = [colours[label] for label in labels]
    drawn = to_pil_image(draw_segmentation_masks(picture, outline, alpha=1.0, colors=chosen))
    numbers = [label + 1 for label in labels]
    draw_boxes(drawn, (scene.boxes * zoom).tolist(), numbers, [None] * len(labels), classes, 0.0)
    return drawn


def _annotate(sample: Scene | tuple[Tensor, int], classes: Sequence[str]) -> Image.Image:
    """One picture of the sheet, in a frame."""
    if isinstance(sample, Scene):
        picture = _scene(sample, classes)
    else:
        image, label = sample
        image = (image - image.min()) / (image.max() - image.min()).clamp(min=1e-6)
        picture = class_panel([(to_pil_image((image * 255).round().to(torch.uint8)), classes[label])])
    framed = Image.new("RGB", (picture.width + _GAP, picture.height + _GAP), (245, 245, 245))
    framed.paste(picture, (_GAP // 2, _GAP // 2))
    return framed


def contact_sheet(
    dataset: Dataset[Scene] | Dataset[tuple[Tensor, int]],
    classes: Sequence[str],
    path: str | Path,
    rows: int = 4,
    columns: int = 8,
) -> Path:
    """Write the first pictures of a data set as one PNG, with class names, boxes and outlines of masks.

    Args:
        dataset: gives `Scene`s, or pairs of image (3, H, W) and label.
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
    write_whole(path, png(grid(pictures, columns)))
    return path
