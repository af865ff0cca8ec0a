"""The operators: usable alone, in any project. Imports torch and numpy; numba and CuPy on first use."""

from dcnlab.ops import flops
from dcnlab.ops.checks import ArgumentError
from dcnlab.ops.cpu import openmp
from dcnlab.ops.deform_conv2d import deform_conv2d
from dcnlab.ops.deform_ps_roi_pool import deform_ps_roi_pool
from dcnlab.ops.deform_roi_pool import deform_roi_pool
from dcnlab.ops.ms_deform_attn import ms_deform_attn

flops.register_when_imported()
openmp.compute_alone_after_forks()

__all__ = ["ArgumentError", "deform_conv2d", "deform_ps_roi_pool", "deform_roi_pool", "ms_deform_attn"]
