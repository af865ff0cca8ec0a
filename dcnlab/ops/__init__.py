"""The operators: usable alone, in any project. Imports torch and numpy; numba and CuPy on first use."""

from dcnlab.ops.checks import ArgumentError
from dcnlab.ops.deform_conv2d import deform_conv2d

__all__ = ["ArgumentError", "deform_conv2d"]
