"""The layer of multi-scale deformable attention against its published formula and hand-worked cases."""

import math

import pytest
import torch
from attn_cases import published
from torch import nn

from dcnlab.nn import MSDeformAttn
from dcnlab.ops import ArgumentError

LEVELS = torch.tensor([[5, 6], [3, 2]]), torch.tensor([0, 30])


def randomised(**options):
    """A small layer whose parameters are all drawn."""
    torch.manual_seed(0)
    layer = MSDeformAttn(12, 2, 3, 2, dtype=torch.float64, **options)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3)
    return layer


def inputs(coordinates=2):
    """Query, reference points and value of two images."""
    torch.manual_seed(1)
    references = torch.rand(2, 4, 2, coordinates, dtype=torch.float64)
    return torch.randn(2, 4, 12, dtype=torch.float64), references, torch.randn(2, 36, 12, dtype=torch.float64)


def formula(state, query, references, value, mask=None):
    """Deformable DETR's layer, head by head, from its paper; 3 heads, 2 levels, 2 points."""

    def linear(name, tensor):
        return tensor @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    rows = linear("value_proj", value)
    if mask is not None:
        rows = torch.where(mask[..., None], 0.0, rows)
    offsets = linear("sampling_offsets", query).view(2, 4, 3, 2, 2, 2)
    weights = linear("attention_weights", query).view(2, 4, 3, 4).exp()
    weights = (weights / weights.sum(3, keepdim=True)).view(2, 4, 3, 2, 2)
    locations = torch.empty_like(offsets)
    for level, (height, width) in enumerate(LEVELS[0].tolist()):
        around = references[:, :, level]
        for head in range(3):
            for point in range(2):
                moved = offsets[:, :, head, level, point]
                if references.shape[-1] == 2:
                    step = moved / torch.tensor([width, height])
                else:
                    step = moved / 2 * around[..., 2:] / 2
                locations[:, :, head, level, point] = around[..., :2] + step
    return linear("output_proj", published(rows.view(2, 36, 3, 4), *LEVELS, locations, weights))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("coordinates", [2, 4])
def test_the_layer_computes_the_published_formula(coordinates, masked):
    """Output and all gradients equal the formula's, for points and boxes, with and without padding."""
    layer, tensors = randomised(), inputs(coordinates)
    mask = torch.arange(36).expand(2, 36) % 5 == 0 if masked else None
    leaves = [*(t.requires_grad_() for t in tensors), *layer.parameters()]
    found = layer(*tensors, *LEVELS, mask)
    expected = formula(dict(layer.named_parameters()), *tensors, mask)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    grad = torch.randn(2, 4, 12, dtype=torch.float64)
    for value, other in zip(
        torch.autograd.grad(found, leaves, grad), torch.autograd.grad(expected, leaves, grad), strict=True
    ):
        torch.testing.assert_close(value, other, rtol=1e-9, atol=1e-9)


def test_a_fresh_layer_looks_in_a_direction_for_each_head():
    """Eight heads point at the neighbours in a circle, point k at k + 1 pixels, with the same weights everywhere."""
    layer = MSDeformAttn(16, n_levels=2, n_heads=8, n_points=3)
    around = [(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)]
    bias = layer.sampling_offsets.bias.view(8, 2, 3, 2)
    for head, direction in enumerate(around):
        for point in range(3):
            expected = torch.tensor(direction).float() * (point + 1)
            torch.testing.assert_close(bias[head, :, point], expected.expand(2, 2), rtol=0, atol=1e-6)
    assert not layer.sampling_offsets.weight.any()
    assert not layer.attention_weights.weight.any()
    bound = math.sqrt(6 / 32)
    assert 0.8 * bound < layer.value_proj.weight.abs().max() <= bound
    torch.testing.assert_close(layer.sampling_offsets.bias.detach(), _again(layer))


def _again(layer):
    """The bias after all layers were asked to begin anew, as some training programs do."""
    nn.init.ones_(layer.sampling_offsets.bias)
    layer.apply(lambda module: module.reset_parameters() if hasattr(module, "reset_parameters") else None)
    return layer.sampling_offsets.bias.detach()


def test_state_dicts_of_the_public_layers_fit_by_name():
    """Names and shapes are those of Deformable DETR, mmcv and transformers, at their default sizes."""
    shapes = {name: tuple(tensor.shape) for name, tensor in MSDeformAttn().state_dict().items()}
    assert shapes == {
        "sampling_offsets.weight": (256, 256),
        "sampling_offsets.bias": (256,),
        "attention_weights.weight": (128, 256),
        "attention_weights.bias": (128,),
        "value_proj.weight": (256, 256),
        "value_proj.bias": (256,),
        "output_proj.weight": (256, 256),
        "output_proj.bias": (256,),
    }


def test_under_autocast_offsets_and_weights_stay_float32():
    """The output is bfloat16; a reference point at a high column reads its own pixel, because it stays float32."""
    layer = MSDeformAttn(4, 1, 1, 1)
    nn.init.zeros_(layer.sampling_offsets.bias)
    for projection in (layer.value_proj, layer.output_proj):
        nn.init.eye_(projection.weight)
    width = 1333
    value = (torch.arange(width) % 64 / 16).view(1, width, 1).expand(1, width, 4)
    references = torch.tensor([(1300.25 + 0.5) / width, 0.5]).view(1, 1, 1, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = layer(torch.randn(1, 1, 4), references, value, [(1, width)], [0])
    assert output.dtype == torch.bfloat16
    expected = torch.full((1, 1, 4), (1300.25 % 64) / 16)
    torch.testing.assert_close(output.float(), expected, rtol=0, atol=0.01)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"d_model": 10}, "d_model: 10 is not a multiple of n_heads 3; nearest: 9"),
        ({"n_points": 0}, "n_points: must be at least 1, got 0"),
    ],
)
def test_sizes_that_do_not_fit_are_named_in_one_line(change, message):
    """An ArgumentError starts with the argument's name, and names the nearest right value."""
    with pytest.raises(ArgumentError, match=f"^{message}"):
        MSDeformAttn(**({"d_model": 12, "n_levels": 2, "n_heads": 3, "n_points": 2} | change))


def test_reference_points_of_three_numbers_are_refused():
    """The message has both shapes that would fit."""
    expected = r"^reference_points: expected \(2, 4, 2, 2\) or \(2, 4, 2, 4\), got \(2, 4, 2, 3\)$"
    layer, tensors = randomised(), inputs(3)
    with pytest.raises(ArgumentError, match=expected):
        layer(*tensors, *LEVELS)
