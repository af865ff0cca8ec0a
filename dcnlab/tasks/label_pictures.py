"""Pictures of label maps: next to the photograph, over it, and as PNG of a palette."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dcnlab.tasks.box_drawing import class_colours, short_name
from dcnlab.tasks.pictures import shown_size, side_by_side


def palette(classes: int) -> NDArray[np.uint8]:
    """Colours of label values, as PASCAL VOC's palette has them: (256, 3), white from `classes` up."""
    colours = np.full((256, 3), 255, np.uint8)
    for label in range(min(classes, 255)):
        value, colour = label, np.zeros(3, np.uint8)
        for bit in range(7, 4, -1):
            colour |= np.array([(value >> channel & 1) << bit for channel in range(3)], np.uint8)
            value >>= 3
        colours[label] = colour
    return colours


def _map_colours(classes: Sequence[str]) -> NDArray[np.uint8]:
    """Bright colours of label values as a table (256, 3); background is black, unknown pixels are white."""
    colours = np.full((256, 3), 255, np.uint8)
    for label, colour in enumerate(class_colours(classes)[:255]):
        colours[label] = colour
    return colours


def segmentation_panel(image: Image.Image, label: Tensor, prediction: Tensor, classes: Sequence[str]) -> Image.Image:
    """Photograph, label and prediction side by side; below them the colours of the classes shown.

    Args:
        image: resized to the label's size.
        label: (H, W), 0 to classes - 1, or 255 where it is not known: white.
        prediction: (H, W), drawn white where the label is not known.
        classes: names in the order of the labels.
    """
    truth, predicted = label.cpu().numpy().astype(np.uint8), prediction.cpu().numpy().astype(np.uint8)
    predicted = np.where(truth == 255, 255, predicted).astype(np.uint8)
    height, width = truth.shape
    size = shown_size(height, width, 168)
    colours = _map_colours(classes)
    pictures = [image.resize(size, Image.Resampling.BILINEAR)]
    pictures += [Image.fromarray(colours[map_]).resize(size, Image.Resampling.NEAREST) for map_ in (truth, predicted)]
    seen = sorted((set(np.unique(truth).tolist()) | set(np.unique(predicted).tolist())) - {255})
    names = [(short_name(classes[k]), tuple(int(c) for c in colours[k])) for k in seen]
    return side_by_side(pictures, ["image", "label", "prediction"], names)


def label_picture(image: Image.Image, labels: Tensor, classes: Sequence[str]) -> Image.Image:
    """A photograph under half-transparent colours of its pixels' classes; below it the colours' names.

    Args:
        image: of the labels' size.
        labels: (H, W), 0 to classes - 1, or 255 where it is not known: white.
        classes: names in the order of the labels.
    """
    values, colours = labels.cpu().numpy().astype(np.uint8), _map_colours(classes)
    names = [
        (short_name(classes[k]), tuple(int(c) for c in colours[k]))
        for k in np.unique(values).tolist()
        if k < len(classes)
    ]
    return side_by_side([Image.blend(image, Image.fromarray(colours[values]), 0.5)], [""], names)


def label_image(labels: Tensor, classes: int) -> Image.Image:
    """Labels (H, W) as a picture whose pixels are the labels and whose palette colours them."""
    picture = Image.fromarray(labels.cpu().numpy().astype(np.uint8), mode="P")
    picture.putpalette(palette(classes).tobytes())
    return picture
