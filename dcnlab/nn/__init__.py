"""Layers that learn where they look."""

from dcnlab.nn.deform_conv2d import DeformConv2d

__all__ = ["DeformConv2d"]
