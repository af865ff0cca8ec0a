"""Draws scenes of handwritten digits, compiled by numba: less than 0.1 ms for a 56-pixel scene on one core."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcnlab.data.digits.geometry import Geometry
from dcnlab.data.digits.patch import CELL, WAVES, draw_magnification, draw_patch, draw_pose
from dcnlab.data.digits.random_stream import mix, uniform
from dcnlab.ops.jit import njit

_PLACES = 20  # tries to place a further digit before it is left out
_OVERLAP = 0.25  # of the smaller box, that two digits may share
_INK = 0.5  # from here up a pixel belongs to a digit's mask


@dataclass(frozen=True)
class Drawing:
    """A batch of B scenes of at most K digits.

    ============ ============== ======= ==========================================================
    name         shape          dtype   meaning
    ============ ============== ======= ==========================================================
    images       (B, S, S)      uint8   brightness
    owners       (B, S, S)      uint8   the digit a pixel belongs to, 1 to K, the front one; 0 none
    labels       (B, K)         int64   classes; -1 where a digit found no place
    boxes        (B, K, 4)      float32 x1, y1, x2, y2, pixels, tight around the visible mask
    ============ ============== ======= ==========================================================
    """

    images: NDArray[np.uint8]
    owners: NDArray[np.uint8]
    labels: NDArray[np.int64]
    boxes: NDArray[np.float32]


def draw(
    indices: NDArray[np.int64],
    key: int,
    inks: NDArray[np.uint8],
    classes: NDArray[np.int64],
    digits: int,
    geometry: Geometry,
) -> Drawing:
    """Draw the scenes of these indices.

    Args:
        indices: (B,), 0 and up; scene i shows digit i modulo D, and others with it where `digits` is more than 1.
        key: 64 bits that stand for the data set: two keys give unrelated scenes.
        inks: (D, 28, 28), the split's digits.
        classes: (D,), their classes.
        digits: K, the maximum number of digits in a scene.
        geometry: how they are laid on the canvas.
    """
    batch, size, g = len(indices), geometry.image_size, geometry
    drawing = Drawing(
        np.zeros((batch, size, size), np.uint8),
        np.zeros((batch, size, size), np.uint8),
        np.full((batch, digits), -1, np.int64),
        np.zeros((batch, digits, 4), np.float32),
    )
    spreads = np.array([math.radians(g.rotation), *g.scale, g.shear, g.warp * CELL, *g.brightness], np.float64)
    _draw_scenes(
        np.ascontiguousarray(indices, np.int64), np.uint64(key), inks, classes, spreads, g.clutter,
        drawing.images, drawing.owners, drawing.labels, drawing.boxes,
    )  # fmt: skip
    return drawing


@njit()
def _paste(image: Any, owner: Any, patch: Any, box: Any, top: int, left: int, brightness: float, number: int) -> None:
    """Draw the patch's box on the canvas, its corner at (top, left); number 0 leaves the owners as they are."""
    for y in range(max(box[0], box[0] - top), min(box[1], box[0] - top + image.shape[0])):
        for x in range(max(box[2], box[2] - left), min(box[3], box[2] - left + image.shape[1])):
            ink, at_y, at_x = patch[y, x], top + y - box[0], left + x - box[2]
            below = image[at_y, at_x]
            image[at_y, at_x] = np.uint8(below * (1 - ink) + 255.0 * brightness * ink + 0.5)
            if number > 0 and ink >= _INK:
                owner[at_y, at_x] = number


@njit()
def _draw_clutter(
    state: Any, index: int, inks: Any, spreads: Any, magnification: float, image: Any, owner: Any, work: Any
) -> None:
    """Draw a piece of another digit than the scene's first one, at a random place on the canvas."""
    patch, _, _, matrix, waves, window, box = work
    size, count = image.shape[0], inks.shape[0]
    other = (index + 1 + int(uniform(state, 0, count - 1))) % count
    side = int(uniform(state, 6, 10))
    window[0], window[2] = int(uniform(state, 4, CELL - 3 - side)), int(uniform(state, 4, CELL - 3 - side))
    window[1], window[3] = window[0] + side, window[2] + side
    draw_pose(state, spreads, magnification, matrix, waves)
    draw_patch(inks[other], work)
    middle_y, middle_x = int(uniform(state, 0, size)), int(uniform(state, 0, size))
    brightness = uniform(state, spreads[5], spreads[6])
    if box[1] > box[0]:
        top, left = middle_y - (box[1] - box[0]) // 2, middle_x - (box[3] - box[2]) // 2
        _paste(image, owner, patch, box, top, left, brightness, 0)


@njit()
def _overlaps(places: Any, number: int, top: int, left: int, bottom: int, right: int) -> bool:
    for k in range(number):
        shared_y = min(bottom, places[k, 1]) - max(top, places[k, 0])
        shared_x = min(right, places[k, 3]) - max(left, places[k, 2])
        if shared_y > 0 and shared_x > 0:
            area = (bottom - top) * (right - left)
            other = (places[k, 1] - places[k, 0]) * (places[k, 3] - places[k, 2])
            if shared_y * shared_x > _OVERLAP * min(area, other):
                return True
    return False


@njit()
def _draw_digit(
    state: Any,
    ink: Any,
    spreads: Any,
    magnification: float,
    number: int,
    places: Any,
    image: Any,
    owner: Any,
    work: Any,
) -> bool:
    """Draw a whole digit where it hardly overlaps the earlier ones; False if 20 random places all overlap."""
    patch, _, _, matrix, waves, window, box = work
    size = image.shape[0]
    window[0], window[1], window[2], window[3] = 0, CELL, 0, CELL
    draw_pose(state, spreads, magnification, matrix, waves)
    draw_patch(ink, work)
    while max(box[1] - box[0], box[3] - box[2]) > size:
        shrink = 0.98 * size / max(box[1] - box[0], box[3] - box[2])
        for k in range(4):
            matrix[k // 2, k % 2] *= shrink
        draw_patch(ink, work)
    brightness = uniform(state, spreads[5], spreads[6])
    height, width = box[1] - box[0], box[3] - box[2]
    for _ in range(_PLACES):
        top, left = int(uniform(state, 0, size - height + 1)), int(uniform(state, 0, size - width + 1))
        if not _overlaps(places, number, top, left, top + height, left + width):
            places[number, 0], places[number, 1] = top, top + height
            places[number, 2], places[number, 3] = left, left + width
            _paste(image, owner, patch, box, top, left, brightness, number + 1)
            return True
    return False


@njit(nogil=True)
def _draw_scenes(
    indices: Any,
    key: Any,
    inks: Any,
    classes: Any,
    spreads: Any,
    clutter: int,
    images: Any,
    owners: Any,
    labels: Any,
    boxes: Any,
) -> None:
    size, count, most = images.shape[1], inks.shape[0], labels.shape[1]
    side = 2 * size  # a digit clipped here is wider than the canvas, hence redrawn smaller
    work = (
        np.empty((side, side), np.float64),
        np.empty((CELL + 2, CELL + 2), np.float64),
        np.empty((2 * side, 2 * WAVES), np.float64),
        np.empty((2, 2), np.float64),
        np.empty((WAVES, 4), np.float64),
        np.empty(4, np.int64),
        np.empty(4, np.int64),
    )
    state = np.empty(1, np.uint64)
    places = np.empty((most, 4), np.int64)
    for scene in range(len(indices)):
        index, image, owner = indices[scene], images[scene], owners[scene]
        state[0] = mix(key ^ mix(np.uint64(index)))
        # Pieces are magnified as the first digit is: as large as a small digit, they would be digits themselves.
        magnification = draw_magnification(state, spreads, size)
        for _ in range(clutter):
            _draw_clutter(state, index, inks, spreads, magnification, image, owner, work)
        number = 0
        for k in range(most):
            which = index % count
            if k > 0:
                which, magnification = int(uniform(state, 0, count)), draw_magnification(state, spreads, size)
            if _draw_digit(state, inks[which], spreads, magnification, number, places, image, owner, work):
                labels[scene, number] = classes[which]
                number += 1
        for k in range(number):
            boxes[scene, k, 0], boxes[scene, k, 1] = size, size
        for y in range(size):
            for x in range(size):
                k = owner[y, x]
                if k > 0:
                    box = boxes[scene, k - 1]
                    box[0], box[1] = min(box[0], x), min(box[1], y)
                    box[2], box[3] = max(box[2], x + 1), max(box[3], y + 1)
        for k in range(number):
            if boxes[scene, k, 2] == 0:
                labels[scene, k] = -1
