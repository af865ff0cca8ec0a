"""Draws scenes of handwritten digits, compiled by numba: less than 0.1 ms for a 56-pixel scene on one core.

A scene's random numbers come from a separate SplitMix64 stream, keyed by the data set's key and the scene's index,
so a scene is the same whatever else is drawn in the batch, in which order and in which process.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcnlab.data.digits.geometry import Geometry
from dcnlab.ops.jit import njit

CELL = 28
"""Height and width of a digit as stored, pixels."""

_GOLDEN, _MIX1, _MIX2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S27, _S30, _S31, _S11 = np.uint64(27), np.uint64(30), np.uint64(31), np.uint64(11)
_WAVES = 4  # two for the displacement along x, two along y
_PLACES = 20  # tries to place a further digit before it is left out
_OVERLAP = 0.25  # of the smaller box, that two digits may share
_INK = 0.5  # from here up a pixel belongs to a digit's mask
_TRACE = 0.05  # from here up it must lie on the canvas


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
def _mix(z: Any) -> Any:
    z = (z ^ (z >> _S30)) * _MIX1
    z = (z ^ (z >> _S27)) * _MIX2
    return z ^ (z >> _S31)


@njit()
def _uniform(state: Any, low: float, high: float) -> float:
    """Draw the next number of the stream, low <= number < high."""
    state[0] += _GOLDEN
    return low + (high - low) * (float(_mix(state[0]) >> _S11) * 2.0**-53)


@njit()
def _magnification(state: Any, spreads: Any, size: int) -> float:
    """Draw how many pixels of the canvas a pixel of the cell becomes."""
    return _uniform(state, spreads[1], spreads[2]) * size / 3.0 / CELL


@njit()
def _draw_pose(state: Any, spreads: Any, magnification: float, matrix: Any, waves: Any) -> None:
    """Draw a digit's affine map, cell to canvas, and the waves of its warp."""
    angle = _uniform(state, -spreads[0], spreads[0])
    shear = _uniform(state, -spreads[3], spreads[3])
    c, s = math.cos(angle) * magnification, math.sin(angle) * magnification
    matrix[0, 0], matrix[0, 1] = c, c * shear - s
    matrix[1, 0], matrix[1, 1] = s, s * shear + c
    for k in range(_WAVES):
        direction = _uniform(state, 0.0, 2.0 * math.pi)
        frequency = _uniform(state, 0.5, 1.0) * 2.0 * math.pi / CELL
        waves[k, 0] = frequency * math.cos(direction)
        waves[k, 1] = frequency * math.sin(direction)
        waves[k, 2] = _uniform(state, 0.0, 2.0 * math.pi)
        waves[k, 3] = _uniform(state, 0.25, 0.5) * spreads[4]


@njit()
def _cut(ink: Any, window: Any, source: Any) -> float:
    """Copy the window into `source`, in a border of paper; return how far ink reaches from its middle, pixels."""
    height, width = window[1] - window[0], window[3] - window[2]
    for row in range(height + 2):
        for column in range(width + 2):
            source[row, column] = 0.0
    farthest = 0.0
    for row in range(height):
        for column in range(width):
            value = ink[window[0] + row, window[2] + column]
            source[row + 1, column + 1] = value / 255.0
            if value > 0:
                y, x = abs(row + 0.5 - height / 2) + 0.5, abs(column + 0.5 - width / 2) + 0.5
                farthest = max(farthest, y * y + x * x)
    return math.sqrt(farthest)


@njit()
def _draw_patch(ink: Any, work: Any) -> None:
    """Resample the digit's window into the patch's middle; the box becomes the tight y1, y2, x1, x2 of its traces."""
    patch, source, tables, matrix, waves, window, box = work
    size = patch.shape[0]
    a, b, c, d = matrix[0, 0], matrix[0, 1], matrix[1, 0], matrix[1, 1]
    determinant = a * d - b * c
    ia, ib, ic, id_ = d / determinant, -b / determinant, -c / determinant, a / determinant
    height, width = window[1] - window[0], window[3] - window[2]
    # Half of the reach: the ink, moved by all waves at once, and the pixel that bilinear sampling spreads it by.
    radius = _cut(ink, window, source) + 1.0 + math.hypot(waves[0, 3] + waves[1, 3], waves[2, 3] + waves[3, 3])
    reach_x, reach_y = math.hypot(a, b) * radius, math.hypot(c, d) * radius
    x1, x2 = max(0, int(size / 2 - reach_x)), min(size, int(size / 2 + reach_x) + 1)
    y1, y2 = max(0, int(size / 2 - reach_y)), min(size, int(size / 2 + reach_y) + 1)
    # sin(p + q) = sin p cos q + cos p sin q: a wave over the canvas needs sines of its rows and columns only.
    for k in range(_WAVES):
        along_x = waves[k, 0] * ia + waves[k, 1] * ic
        along_y = waves[k, 0] * ib + waves[k, 1] * id_
        for x in range(x1, x2):
            tables[x, 2 * k] = math.sin(along_x * (x + 0.5 - size / 2))
            tables[x, 2 * k + 1] = math.cos(along_x * (x + 0.5 - size / 2))
        for y in range(y1, y2):
            tables[size + y, 2 * k] = math.cos(along_y * (y + 0.5 - size / 2) + waves[k, 2]) * waves[k, 3]
            tables[size + y, 2 * k + 1] = math.sin(along_y * (y + 0.5 - size / 2) + waves[k, 2]) * waves[k, 3]
    top, bottom, left, right = size, 0, size, 0
    for y in range(y1, y2):
        dy, p = y + 0.5 - size / 2, tables[size + y]
        for x in range(x1, x2):
            dx, q = x + 0.5 - size / 2, tables[x]
            u = ia * dx + ib * dy + (width / 2 + 0.5) + q[0] * p[0] + q[1] * p[1] + q[2] * p[2] + q[3] * p[3]
            v = ic * dx + id_ * dy + (height / 2 + 0.5) + q[4] * p[4] + q[5] * p[5] + q[6] * p[6] + q[7] * p[7]
            value = 0.0
            if 0.0 < u < width + 1.0 and 0.0 < v < height + 1.0:
                row, column = int(v), int(u)
                fy, fx = v - row, u - column
                upper = source[row, column] * (1 - fx) + source[row, column + 1] * fx
                lower = source[row + 1, column] * (1 - fx) + source[row + 1, column + 1] * fx
                value = upper * (1 - fy) + lower * fy
                if value >= _TRACE:
                    top, bottom = min(top, y), max(bottom, y + 1)
                    left, right = min(left, x), max(right, x + 1)
            patch[y, x] = value
    box[0], box[1], box[2], box[3] = top, bottom, left, right


@njit()
def _paste(image: Any, owner: Any, patch: Any, box: Any, top: int, left: int, brightness: float, number: int) -> None:
    """Lay the patch's box over the canvas with its corner at (top, left); number 0 owns no pixel."""
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
    """Lay one piece of a digit other than the scene's first one anywhere on the canvas."""
    patch, _, _, matrix, waves, window, box = work
    size, count = image.shape[0], inks.shape[0]
    other = (index + 1 + int(_uniform(state, 0, count - 1))) % count
    side = int(_uniform(state, 6, 10))
    window[0], window[2] = int(_uniform(state, 4, CELL - 3 - side)), int(_uniform(state, 4, CELL - 3 - side))
    window[1], window[3] = window[0] + side, window[2] + side
    _draw_pose(state, spreads, magnification, matrix, waves)
    _draw_patch(inks[other], work)
    middle_y, middle_x = int(_uniform(state, 0, size)), int(_uniform(state, 0, size))
    brightness = _uniform(state, spreads[5], spreads[6])
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
    """Lay a digit wholly on the canvas, apart from the earlier ones; False where none of 20 places is free."""
    patch, _, _, matrix, waves, window, box = work
    size = image.shape[0]
    window[0], window[1], window[2], window[3] = 0, CELL, 0, CELL
    _draw_pose(state, spreads, magnification, matrix, waves)
    _draw_patch(ink, work)
    while max(box[1] - box[0], box[3] - box[2]) > size:
        shrink = 0.98 * size / max(box[1] - box[0], box[3] - box[2])
        for k in range(4):
            matrix[k // 2, k % 2] *= shrink
        _draw_patch(ink, work)
    brightness = _uniform(state, spreads[5], spreads[6])
    height, width = box[1] - box[0], box[3] - box[2]
    for _ in range(_PLACES):
        top, left = int(_uniform(state, 0, size - height + 1)), int(_uniform(state, 0, size - width + 1))
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
        np.empty((2 * side, 2 * _WAVES), np.float64),
        np.empty((2, 2), np.float64),
        np.empty((_WAVES, 4), np.float64),
        np.empty(4, np.int64),
        np.empty(4, np.int64),
    )
    state = np.empty(1, np.uint64)
    places = np.empty((most, 4), np.int64)
    for scene in range(len(indices)):
        index, image, owner = indices[scene], images[scene], owners[scene]
        state[0] = _mix(key ^ _mix(np.uint64(index)))
        # Pieces are magnified as the first digit is: as large as a small digit, they would be digits themselves.
        magnification = _magnification(state, spreads, size)
        for _ in range(clutter):
            _draw_clutter(state, index, inks, spreads, magnification, image, owner, work)
        number = 0
        for k in range(most):
            which = index % count
            if k > 0:
                which, magnification = int(_uniform(state, 0, count)), _magnification(state, spreads, size)
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
