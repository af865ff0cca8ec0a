"""ReplacedOffsets: gives a network's deformable convolutions other offsets than those that they predict."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dcnlab.nn.deform_conv2d import DeformConv2d
from dcnlab.nn.moved_taps import output_size

Values = list[Tensor]
"""What a layer computes its output with: offsets, and the factors of a modulated layer."""
Calls = list[Values]
"""What a layer predicted in each call of one forward pass."""


class ReplacedOffsets:
    """Replaces what the deformable convolutions of a network predict; `restore` ends it.

    The factors of modulated layers are replaced as the offsets are. RoI pooling keeps the offsets that it predicts.

    Args:
        network: in evaluation mode.
    """

    def __init__(self, network: nn.Module) -> None:
        self.layers = [module for module in network.modules() if isinstance(module, DeformConv2d)]

    def restore(self) -> None:
        """Let the layers predict again."""
        for layer in self.layers:
            vars(layer).pop("offsets", None)

    def by_zero(self) -> None:
        """Let offsets be zero and factors one, as in a fresh layer."""
        for layer in self.layers:
            self._replace(layer, partial(_constant, layer, _fresh(layer)))

    def by_constants(self, constants: Sequence[Tensor]) -> None:
        """Let a layer's offsets and factors be the same at every sampling location, as an active convolution's are.

        Args:
            constants: for each layer (channels,), the offsets and then the factors.
        """
        for layer, values in zip(self.layers, constants, strict=True):
            self._replace(layer, partial(_constant, layer, values))

    def by_other_images(self, recorded: Sequence[Sequence[Calls]]) -> None:
        """Let the images of a batch have the offsets and factors that were predicted from other images.

        Maps of another size are resized bilinearly; their values stay, in pixels of the layer's map. The network may
        take all images of the batch in one pass or each in a pass, in order.

        Args:
            recorded: for each image of the batch, what `recorded` gave for the other image.
        """
        for number, layer in enumerate(self.layers):
            replay = _Replay(layer, [calls[number] for calls in recorded])
            self._replace(layer, replay)

    @contextmanager
    def recording(self) -> Iterator[list[Calls]]:
        """Keep what the layers predict: for each layer its calls, (N, channels, Ho, Wo) each."""
        calls: list[Calls] = [[] for _ in self.layers]
        with self._watched(lambda number, values: calls[number].append(values)):
            yield calls

    @contextmanager
    def summing(self) -> Iterator[list[Tensor]]:
        """Sum what the layers predict over images and locations.

        Yields:
            For each layer (channels + 1,) float64 on the CPU: the sums of offsets and factors, and the number of
            locations.
        """
        sums = [torch.zeros(len(_fresh(layer)) + 1, dtype=torch.float64) for layer in self.layers]

        def add(number: int, values: Values) -> None:
            total = torch.cat([value.double().sum((0, 2, 3)) for value in values]).cpu()
            locations = values[0].shape[0] * values[0].shape[2] * values[0].shape[3]
            sums[number] += torch.cat([total, total.new_tensor([locations])])

        with self._watched(add):
            yield sums

    @contextmanager
    def _watched(self, note: Callable[[int, Values], None]) -> Iterator[None]:
        """Let the layers predict, and see what; afterwards they are as they were."""
        before = [vars(layer).get("offsets") for layer in self.layers]
        for number, layer in enumerate(self.layers):

            def watched(input: Tensor, layer: DeformConv2d = layer, number: int = number) -> Any:
                offset, mask = type(layer).offsets(layer, input)
                note(number, [offset] if mask is None else [offset, mask])
                return offset, mask

            self._replace(layer, watched)
        try:
            yield
        finally:
            self.restore()
            for layer, replacement in zip(self.layers, before, strict=True):
                if replacement is not None:
                    self._replace(layer, replacement)

    @staticmethod
    def _replace(layer: DeformConv2d, offsets: Callable[[Tensor], Any]) -> None:
        vars(layer)["offsets"] = offsets


class _Replay:
    """Gives a layer the recorded values of a batch's images, in the order of the calls.

    Args:
        layer: called as often for each image as it was when the values were recorded.
        images: for each image of the batch the recorded calls, of one image each.
    """

    def __init__(self, layer: DeformConv2d, images: Sequence[Calls]) -> None:
        self._layer, self._images, self._done = layer, images, 0

    def __call__(self, input: Tensor) -> tuple[Tensor, Tensor | None]:
        """Offsets and factors for an input (N, C, H, W) of the next N images."""
        count, calls = len(input), len(self._images[0])
        first, call = self._done // (calls * count) * count, self._done // count % calls
        self._done += count
        donors = [image[call] for image in self._images[first : first + count]]
        assert len(donors) == count, "the layer is called more often than when the offsets were recorded"
        size = output_size(self._layer, input)
        maps = [torch.cat([_resized(values[part], size) for values in donors]) for part in range(len(donors[0]))]
        return maps[0], maps[1] if self._layer.modulated else None


def _resized(values: Tensor, size: tuple[int, int]) -> Tensor:
    """A map (1, channels, H, W) of another size."""
    if values.shape[2:] == size:
        return values
    return functional.interpolate(values, size, mode="bilinear", align_corners=False)


def _fresh(layer: DeformConv2d) -> Tensor:
    """Offsets and factors of a layer that has not learnt: (channels,)."""
    values = torch.zeros(layer.offset_channels + (layer.offset_channels // 2 if layer.modulated else 0))
    values[layer.offset_channels :] = 1
    return values


def _constant(layer: DeformConv2d, values: Tensor, input: Tensor) -> tuple[Tensor, Tensor | None]:
    """Constants (channels,) repeated over an input's output."""
    values = values.to(input.device, layer.offset_conv.weight.dtype).view(1, -1, 1, 1)
    maps = values.expand(len(input), -1, *output_size(layer, input))
    return maps[:, : layer.offset_channels], maps[:, layer.offset_channels :] if layer.modulated else None
