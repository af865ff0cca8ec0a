"""Sizes of the chunks in which deformable convolution is computed, and the variable that sets those on CUDA.

Both paths take them as a parameter; what stands here is the default.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

VARIABLE = "DCNLAB_COLUMNS_MIB"
"""The most columns that a call on CUDA holds at a time, in MiB: a whole number."""

CUDA_BYTES = 256 << 20
"""The same in bytes, where the variable is not set. Larger chunks mean fewer launches, and more memory."""


def cuda_bytes() -> int:
    """Bytes of columns that a call on CUDA may hold: `CUDA_BYTES`, or what the environment says.

    Raises:
        ValueError: the variable is not a whole number of MiB, 1 or more.
    """
    value = os.environ.get(VARIABLE)
    if value is None:
        return CUDA_BYTES
    if not value.isdecimal() or int(value) == 0:
        raise ValueError(f"{VARIABLE}={value}: it can be a whole number of MiB, 1 or more")
    return int(value) << 20


@dataclass(frozen=True)
class CpuChunks:
    """Chunks on a CPU."""

    columns_bytes: int = 8 << 20
    """Columns held at a time, so few that they stay in the third-level cache between a loop and a product."""
    min_rows: int = 256
    """Output pixels of a chunk all the same: products want rows."""
    row_multiple: int = 16
    """A chunk has a multiple of so many: a product that ends in a part of a block takes up to a tenth longer."""
    min_chunks: int = 4
    """Chunks at least, where they keep that many rows: a small map's columns are a large part of the memory."""
    filters_bytes: int = 2 << 20
    """The weight's gradient is added up piece by piece, each while it is in the second-level cache."""

    def rows(self, pixels: int, row_bytes: int) -> int:
        """Output pixels of every chunk but the last, which is not a small rest.

        Args:
            pixels: all output pixels.
            row_bytes: columns of one output pixel.
        """
        wanted = max(self.min_rows, min(self.columns_bytes // row_bytes, -(-pixels // self.min_chunks)))
        chunks = max(1, -(-(pixels - wanted // 4) // wanted))
        return max(1, min(pixels, -(-pixels // (chunks * self.row_multiple)) * self.row_multiple))


CPU = CpuChunks()
"""The default on a CPU."""
