"""The random numbers of a scene: a SplitMix64 stream, compiled by numba.

The stream is keyed by the data set's key and the scene's index. So a scene is the same whatever else is drawn in the
batch, in which order and in which process.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dcnlab.ops.jit import njit

_GOLDEN, _MIX1, _MIX2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S27, _S30, _S31, _S11 = np.uint64(27), np.uint64(30), np.uint64(31), np.uint64(11)


@njit()
def mix(z: Any) -> Any:
    """Scramble 64 bits: the output function of SplitMix64."""
    z = (z ^ (z >> _S30)) * _MIX1
    z = (z ^ (z >> _S27)) * _MIX2
    return z ^ (z >> _S31)


@njit()
def uniform(state: Any, low: float, high: float) -> float:
    """Draw the next number of the stream, low <= number < high."""
    state[0] += _GOLDEN
    return low + (high - low) * (float(mix(state[0]) >> _S11) * 2.0**-53)
