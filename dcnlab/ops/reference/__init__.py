"""Every operator in plain, differentiable PyTorch: slow, short, and what the other paths are held against."""

from dcnlab.ops.reference.deform_conv2d import deform_conv2d

__all__ = ["deform_conv2d"]
