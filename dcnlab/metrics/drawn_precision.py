"""Average precision of one class on many drawn test sets, by a compiled loop."""

# mypy: disable-error-code="untyped-decorator"
from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dcnlab.metrics.voc_ap import ELEVEN_POINTS, PASSED, RIGHT
from dcnlab.ops.jit import njit

_THRESHOLDS = {
    "coco": np.linspace(0, 1, 101),
    "voc07": np.array(ELEVEN_POINTS),
    "voc07_exact": np.empty(0),
    "voc": np.empty(0),
}
_EXACT_TENTHS = "voc07_exact"


def drawn_precision(
    protocol: str,
    states: NDArray[np.uint8],
    images: NDArray[np.int32],
    weights: NDArray[np.float64],
    objects: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Average precision on each of B drawn test sets, fractions; 0 where nothing is found.

    Args:
        protocol: coco | voc07 | voc07_exact | voc.
        states: (D,) of a class's detections, by falling score: WRONG, RIGHT or PASSED.
        images: (D,) the position of each one's image.
        weights: (B, N) how often each image was drawn.
        objects: (B,) to find.
    """
    right = np.flatnonzero(states == RIGHT)
    last = right[-1] + 1 if len(right) else 0  # what comes after the last true positive changes nothing
    tenths = protocol == _EXACT_TENTHS
    return _areas(states[:last], images[:last], weights, objects, _THRESHOLDS[protocol], tenths, len(right))


@njit(nogil=True, error_model="numpy")
def _areas(states, images, weights, objects, thresholds, tenths, most):  # type: ignore[no-untyped-def]
    """Area below precision against recall, for each test set.

    Precision and recall after each true positive are enough. All copies of one have the same highest precision from
    there on, because precision grows with each of them.
    """
    values = np.zeros(len(weights))
    found, precision = np.empty(most), np.empty(most)
    for drawn in range(len(weights)):
        times = weights[drawn]
        right, counted, steps = 0.0, 0.0, 0
        for detection in range(len(states)):
            if states[detection] == PASSED:
                continue
            weight = times[images[detection]]
            counted += weight
            if states[detection] == RIGHT and weight > 0:
                right += weight
                found[steps], precision[steps] = right, right / counted
                steps += 1
        highest, reached, above = 0.0, len(thresholds), 0.0
        for step in range(steps - 1, -1, -1):
            highest = max(highest, precision[step])
            before = 0.0 if step == 0 else found[step - 1]
            if len(thresholds):
                # Thresholds that this true positive is the first to reach count with its precision.
                while reached > 0 and thresholds[reached - 1] > found[step] / objects[drawn]:
                    reached -= 1
                lower = reached
                while lower > 0 and (step == 0 or thresholds[lower - 1] > before / objects[drawn]):
                    lower -= 1
                above += (reached - lower) / len(thresholds) * highest
                reached = lower
            elif tenths:  # in whole numbers
                start = 0.0 if step == 0 else (10 * before) // objects[drawn] + 1
                above += ((10 * found[step]) // objects[drawn] + 1 - start) / 11 * highest
            else:
                above += (found[step] - before) / objects[drawn] * highest
        values[drawn] = above
    return values
