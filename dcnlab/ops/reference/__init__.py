"""Every operator in plain, differentiable PyTorch: slow, short, and the oracle of the other paths."""

from dcnlab.ops.reference.deform_conv2d import deform_conv2d
from dcnlab.ops.reference.deform_ps_roi_pool import deform_ps_roi_pool
from dcnlab.ops.reference.deform_roi_pool import deform_roi_pool
from dcnlab.ops.reference.ms_deform_attn import ms_deform_attn

__all__ = ["deform_conv2d", "deform_ps_roi_pool", "deform_roi_pool", "ms_deform_attn"]
