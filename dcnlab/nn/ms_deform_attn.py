"""Multi-scale deformable attention: learned sampling locations and weights on several levels (Zhu et al., 2021)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dcnlab.nn.offset_branch import OffsetRegressor
from dcnlab.ops import ArgumentError, ms_deform_attn


class MSDeformAttn(nn.Module):
    """Multi-scale deformable attention as Deformable DETR has it (Zhu et al., 2021, section 4.1, equation 3).

    Each query reads `n_points` samples of every level for each head. Two linear layers make the samples' offsets and
    weights of the query; the weights of a head go through one softmax over all levels and points. The samples are of
    the projected value, and their sum is projected once more.

    At first every weight of a head is the same, and point k of head m lies k + 1 pixels from the reference point, in
    the direction 2 pi m / n_heads, on the square around it. The layer of the offsets ignores autocast, and locations
    and weights are float32 (float64 in a float64 module): in bfloat16 a location would be off by pixels.

    State dicts of Deformable DETR's `MSDeformAttn`, of mmcv's `MultiScaleDeformableAttention` and of transformers'
    `DeformableDetrMultiscaleDeformableAttention` load by name. These two do more around it than this module: they add
    `query_pos` (`position_embeddings`) to the query, and mmcv adds the dropped-out output to `identity`. With
    `batch_first=False`, mmcv's default, its tensors are (Q, N, d_model):

        output = attention((query + query_pos).transpose(0, 1), reference_points, value.transpose(0, 1),
                           spatial_shapes, level_start_index, key_padding_mask).transpose(0, 1)

    Args:
        d_model: channels of query, value and output; a multiple of `n_heads`.
        n_levels: feature levels.
        n_heads: attention heads.
        n_points: samples for each head on each level.
        device: of the parameters.
        dtype: likewise.

    Raises:
        ArgumentError: `d_model` is not a multiple of `n_heads`, or a number is below 1.
    """

    def __init__(
        self,
        d_model: int = 256,
        n_levels: int = 4,
        n_heads: int = 8,
        n_points: int = 4,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        for name, number in (("n_levels", n_levels), ("n_heads", n_heads), ("n_points", n_points)):
            if number < 1:
                raise ArgumentError(f"{name}: must be at least 1, got {number}")
        if d_model < 1 or d_model % n_heads:
            nearest = max(1, round(d_model / n_heads)) * n_heads
            raise ArgumentError(f"d_model: {d_model} is not a multiple of n_heads {n_heads}; nearest: {nearest}")
        self.d_model, self.n_levels, self.n_heads, self.n_points = d_model, n_levels, n_heads, n_points
        samples = n_heads * n_levels * n_points
        self.sampling_offsets = _Directions(d_model, (n_heads, n_levels, n_points), device, dtype)
        self.attention_weights = nn.Linear(d_model, samples, device=device, dtype=dtype)
        self.value_proj = nn.Linear(d_model, d_model, device=device, dtype=dtype)
        self.output_proj = nn.Linear(d_model, d_model, device=device, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start as Deformable DETR does: the same weight for every sample, offsets by head and point."""
        self.sampling_offsets.reset_parameters()
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        query: Tensor,
        reference_points: Tensor,
        input_flatten: Tensor,
        input_spatial_shapes: Tensor | Sequence[tuple[int, int]],
        input_level_start_index: Tensor | Sequence[int],
        input_padding_mask: Tensor | None = None,
    ) -> Tensor:
        """Attend to the levels.

        Args:
            query: (N, Q, d_model).
            reference_points: (N, Q, n_levels, 2), x before y, as fractions of the level's width and height; or
                (N, Q, n_levels, 4), boxes' centre x, y, width and height likewise. Offsets are in pixels of the level
                then, or in halves of the box's size divided by `n_points`.
            input_flatten: (N, S, d_model), the pixels of all levels one after another.
            input_spatial_shapes: (n_levels, 2) int64, height and width of each level; or a list of pairs.
            input_level_start_index: (n_levels,) int64, the first pixel of each level among the S; or a list.
            input_padding_mask: (N, S) bool, True at pixels that count as zero after the projection; None: none do.

        Returns:
            (N, Q, d_model).

        Raises:
            ArgumentError: naming an argument that does not fit, here or in :func:`dcnlab.ops.ms_deform_attn`.
        """
        (batch, queries, _), levels = query.shape, self.n_levels
        expected = (batch, queries, levels)
        if tuple(reference_points.shape[:-1]) != expected or reference_points.shape[-1] not in (2, 4):
            raise ArgumentError(
                f"reference_points: expected {(*expected, 2)} or {(*expected, 4)}, got {tuple(reference_points.shape)}"
            )
        value = self.value_proj(input_flatten)
        if input_padding_mask is not None:
            value = value.masked_fill(input_padding_mask[..., None], 0)
        value = value.unflatten(2, (self.n_heads, self.d_model // self.n_heads))
        shapes = torch.as_tensor(input_spatial_shapes, device=query.device)
        locations = self._locations(query, reference_points, shapes)
        logits = self.attention_weights(query).unflatten(2, (self.n_heads, levels * self.n_points))
        weights = functional.softmax(logits, 3, dtype=locations.dtype).unflatten(3, (levels, self.n_points))
        given = input_spatial_shapes if isinstance(input_spatial_shapes, Tensor) else shapes
        output = ms_deform_attn(value, given, input_level_start_index, locations, weights)
        projected: Tensor = self.output_proj(output)
        return projected

    def _locations(self, query: Tensor, reference_points: Tensor, shapes: Tensor) -> Tensor:
        """The samples' locations as fractions, (N, Q, heads, levels, points, 2), in float32 or float64."""
        offsets = self.sampling_offsets(query)
        real = torch.float64 if offsets.dtype == torch.float64 else torch.float32
        offsets = offsets.to(real).unflatten(2, (self.n_heads, self.n_levels, self.n_points, 2))
        around = reference_points.to(real)[:, :, None, :, None]
        if reference_points.shape[-1] == 2:
            return around + offsets / shapes.flip(1)[:, None].to(real)  # width before height
        return around[..., :2] + offsets * around[..., 2:] * (0.5 / self.n_points)

    def extra_repr(self) -> str:
        """The arguments."""
        return f"d_model={self.d_model}, n_levels={self.n_levels}, n_heads={self.n_heads}, n_points={self.n_points}"


class _Directions(OffsetRegressor):
    """The layer of the offsets: it starts with a direction for each head and a distance for each point.

    Args:
        in_features: of the query.
        samples: heads, levels and points.
        device: of the parameters.
        dtype: likewise.
    """

    def __init__(
        self, in_features: int, samples: tuple[int, int, int], device: Any = None, dtype: torch.dtype | None = None
    ) -> None:
        self._samples = samples
        super().__init__(in_features, 2 * math.prod(samples), device, dtype)

    def reset_parameters(self) -> None:
        """Set the weight to zero and the bias to the start's offsets, x before y, in pixels."""
        super().reset_parameters()
        heads, levels, points = self._samples
        angles = torch.arange(heads, dtype=torch.float64) * (2 * math.pi / heads)
        directions = torch.stack((angles.cos(), angles.sin()), 1)
        directions = directions / directions.abs().amax(1, keepdim=True)
        steps = torch.arange(1, points + 1, dtype=torch.float64)
        start = (directions[:, None, None] * steps[:, None]).expand(heads, levels, points, 2)
        with torch.no_grad():
            self.bias.copy_(start.reshape(-1))
