"""Layers that learn where they look."""

from dcnlab.nn.deform_conv2d import DeformConv2d
from dcnlab.nn.deform_roi_pool import DeformPSRoIPool, DeformRoIPool

__all__ = ["DeformConv2d", "DeformPSRoIPool", "DeformRoIPool"]
