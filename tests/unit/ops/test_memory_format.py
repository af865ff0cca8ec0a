"""Memory formats: output and gradient lie in memory as the input does, as those of torch.nn.Conv2d do."""

import pytest
import torch
from op_cases import DTYPES, OPERATORS
from tester import TOLERANCES
from torch import Tensor, nn

from dcnlab.nn import DeformConv2d
from dcnlab.ops import chunk_sizes, deform_conv2d
from dcnlab.ops.chunk_sizes import CpuChunks
from dcnlab.ops.layout import memory_format
from dcnlab.surgery import deform

OF_MAPS = [name for name, operator in OPERATORS.items() if operator.reads_maps]
FORMATS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
MAPS = {
    "a map": (2, 4, 7, 8),
    "one image": (1, 4, 7, 8),
    "one channel": (2, 1, 7, 8),
    "one row": (2, 4, 1, 8),
    "one pixel": (2, 4, 1, 1),
    "one number": (1, 1, 1, 1),
}


def views(map: Tensor) -> dict[str, Tensor]:
    """A map of one format, and parts of it that are not dense."""
    return {
        "whole": map,
        "every other row": map[:, :, ::2],
        "every other column": map[..., ::2],
        "some channels": map.repeat(1, 2, 1, 1)[:, : map.shape[1]],
        "every other image": map.repeat(2, 1, 1, 1)[::2],
        "turned": map.transpose(2, 3),
        "all images one": map[:1].expand_as(map),
    }


@pytest.mark.parametrize("size", MAPS)
@pytest.mark.parametrize("form", FORMATS)
def test_memory_format_is_that_of_a_convolutions_output(form, size):
    """nn.Conv2d decides for maps that fit both formats, such as those of one pixel."""
    conv = nn.Conv2d(MAPS[size][1], 6, 3, padding=1)
    for name, view in views(torch.randn(MAPS[size]).to(memory_format=FORMATS[form])).items():
        assert memory_format(view) == memory_format(conv(view)), name


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", OF_MAPS)
def test_output_and_gradient_come_in_the_inputs_format(name, form, dtype):
    operator = OPERATORS[name]
    call, tensors = operator.of_tensors(operator.case(dtype))
    plain = call(*tensors)
    input = tensors[0].to(memory_format=FORMATS[form]).requires_grad_()
    for alone in (True, False):
        with torch.set_grad_enabled(not alone):
            output = call(input, *tensors[1:])
        assert output.is_contiguous(memory_format=FORMATS[form])
        torch.testing.assert_close(output.detach(), plain, rtol=0, atol=TOLERANCES[dtype])
    (grad,) = torch.autograd.grad(output, input, torch.ones_like(output))
    assert grad.is_contiguous(memory_format=FORMATS[form])


@pytest.mark.parametrize("form", FORMATS)
def test_the_weights_gradient_comes_in_the_weights_format(form):
    input, offset = torch.randn(2, 4, 7, 8), torch.randn(2, 18, 7, 8)
    plain = torch.randn(6, 4, 3, 3, requires_grad=True)
    (expected,) = torch.autograd.grad(deform_conv2d(input, offset, plain, padding=1).sum(), plain)
    weight = plain.detach().to(memory_format=FORMATS[form]).requires_grad_()
    (grad,) = torch.autograd.grad(deform_conv2d(input, offset, weight, padding=1).sum(), weight)
    assert grad.is_contiguous(memory_format=FORMATS[form])
    torch.testing.assert_close(grad, expected)


@pytest.mark.parametrize("name", OF_MAPS)
def test_a_contiguous_inputs_output_can_be_viewed_as_rows(name):
    operator = OPERATORS[name]
    call, tensors = operator.of_tensors(operator.case(torch.float32))
    output = call(*tensors)
    assert torch.equal(output.view(len(output), -1), output.flatten(1))


@pytest.mark.parametrize("size", MAPS)
@pytest.mark.parametrize("form", FORMATS)
def test_a_new_layer_keeps_the_convolutions_memory_format(form, size):
    """Contiguous, channels_last and sliced inputs give the format that nn.Conv2d gives."""
    conv = nn.Conv2d(MAPS[size][1], 6, 3, padding=1)
    layer = DeformConv2d.from_conv(conv)
    for name, view in views(torch.randn(MAPS[size]).to(memory_format=FORMATS[form])).items():
        found, expected = layer(view), conv(view)
        assert memory_format(found) == memory_format(expected), name
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


class Viewing(nn.Module):
    """A network as many write it, with a view behind the last convolution."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.fc = (
            nn.Conv2d(3, 8, 3, padding=1),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.Linear(512, 5),
        )

    def forward(self, images):
        return self.fc(self.conv2(self.conv1(images).relu()).view(len(images), -1))


def test_a_view_after_a_deformed_layer_works():
    """A network that calls .view on its features must survive surgery and train."""
    network = Viewing()
    plain = network(torch.ones(2, 3, 8, 8))
    deform(network, ["conv2"])
    found = network(torch.ones(2, 3, 8, 8))
    torch.testing.assert_close(found, plain)
    found.sum().backward()
    assert network.conv2.offset_conv.weight.grad.any()


@pytest.mark.parametrize("chunk", [1, 37, 10**6], ids=lambda rows: f"{rows} rows a chunk")
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("groups", [1, 2])
def test_chunks_that_end_within_an_image_are_written_right(monkeypatch, groups, form, chunk):
    """1, 37 and a million rows for each chunk, in both memory formats, equal the reference."""
    operator = OPERATORS["deform_conv2d"]
    call, tensors = operator.of_tensors(operator.case(torch.float32, batch=3, groups=groups))
    expected = operator.by_reference(operator.case(torch.float32, batch=3, groups=groups))["output"]
    sizes = CpuChunks(columns_bytes=1, min_rows=chunk, row_multiple=1)
    monkeypatch.setattr(chunk_sizes, "CPU", sizes)
    output = call(tensors[0].to(memory_format=FORMATS[form]), *tensors[1:])
    torch.testing.assert_close(output.double(), expected, rtol=1e-5, atol=1e-5)
