"""Layers with learned sampling locations."""

from dcnlab.nn.active_conv2d import ActiveConv2d
from dcnlab.nn.deform_conv2d import DeformConv2d
from dcnlab.nn.deform_roi_pool import DeformPSRoIPool, DeformRoIPool
from dcnlab.nn.spatial_transformer import SpatialTransformer

__all__ = ["ActiveConv2d", "DeformConv2d", "DeformPSRoIPool", "DeformRoIPool", "SpatialTransformer"]
