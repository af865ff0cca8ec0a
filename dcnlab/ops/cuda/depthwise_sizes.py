"""Depthwise deformable convolution on CUDA: which calls its kernels serve, and their variants and sizes."""

from __future__ import annotations

from dcnlab.ops.cuda.source import Prelude
from dcnlab.ops.geometry import ConvGeometry

RUN = 64
"""Output pixels over which a block sums the weight's gradient."""

SOURCE = "deform_conv2d_depthwise.cu"


def prelude(of_columns: Prelude) -> Prelude:
    """The types and constants of a depthwise variant, from those of the variant with columns."""
    return {**{name: value for name, value in of_columns.items() if name != "ROWS"}, "RUN": RUN}


def serves(geometry: ConvGeometry) -> bool:
    """Whether these kernels compute the call: each channel is a group, and 32 bits count an image's entries."""
    g = geometry
    entries = 4 * g.taps * g.offset_groups * g.out_height * g.out_width
    return g.groups == g.channels > 1 and g.out_channels > 0 and entries < 2**31


def multiplier(geometry: ConvGeometry) -> int:
    """Filters that read a channel."""
    return geometry.out_channels // geometry.channels


def run(geometry: ConvGeometry) -> int:
    """Channels next to each other that the kernels read alike."""
    return 1 if multiplier(geometry) > 1 else geometry.channels // geometry.offset_groups


def largest(geometry: ConvGeometry) -> int:
    """Elements of the largest of the tensors that only these kernels have."""
    g = geometry
    rows = g.pixels * g.taps * g.offset_groups
    return max(rows, g.pixels * g.out_channels, -(-g.pixels // RUN) * g.taps * g.out_channels)
