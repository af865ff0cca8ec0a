"""A digit as a patch: its pose and warp are drawn, and its pixels resampled, compiled by numba."""

from __future__ import annotations

import math
from typing import Any

from dcnlab.data.digits.random_stream import uniform
from dcnlab.ops.jit import njit

CELL = 28
"""Height and width of a digit as stored, pixels."""
WAVES = 4  # two for the displacement along x, two along y
_TRACE = 0.05  # from here up a pixel counts for the tight box


@njit()
def draw_magnification(state: Any, spreads: Any, size: int) -> float:
    """Draw how many pixels of the canvas a pixel of the cell becomes."""
    return uniform(state, spreads[1], spreads[2]) * size / 3.0 / CELL


@njit()
def draw_pose(state: Any, spreads: Any, magnification: float, matrix: Any, waves: Any) -> None:
    """Draw a digit's affine map, cell to canvas, and the waves of its warp."""
    angle = uniform(state, -spreads[0], spreads[0])
    shear = uniform(state, -spreads[3], spreads[3])
    c, s = math.cos(angle) * magnification, math.sin(angle) * magnification
    matrix[0, 0], matrix[0, 1] = c, c * shear - s
    matrix[1, 0], matrix[1, 1] = s, s * shear + c
    for k in range(WAVES):
        direction = uniform(state, 0.0, 2.0 * math.pi)
        frequency = uniform(state, 0.5, 1.0) * 2.0 * math.pi / CELL
        waves[k, 0] = frequency * math.cos(direction)
        waves[k, 1] = frequency * math.sin(direction)
        waves[k, 2] = uniform(state, 0.0, 2.0 * math.pi)
        waves[k, 3] = uniform(state, 0.25, 0.5) * spreads[4]


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
def draw_patch(ink: Any, work: Any) -> None:
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
    for k in range(WAVES):
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
