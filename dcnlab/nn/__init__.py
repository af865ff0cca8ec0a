"""Layers with learned sampling locations, and the control that they are compared with."""

from dcnlab.nn.active_conv2d import ActiveConv2d
from dcnlab.nn.added_conv2d import AddedConv2d
from dcnlab.nn.deform_conv2d import DeformConv2d
from dcnlab.nn.deform_roi_pool import DeformPSRoIPool, DeformRoIPool
from dcnlab.nn.ms_deform_attn import MSDeformAttn
from dcnlab.nn.spatial_transformer import SpatialTransformer

__all__ = [
    "ActiveConv2d",
    "AddedConv2d",
    "DeformConv2d",
    "DeformPSRoIPool",
    "DeformRoIPool",
    "MSDeformAttn",
    "SpatialTransformer",
]
