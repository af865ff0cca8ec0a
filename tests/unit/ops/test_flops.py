"""torch's counter of floating-point operations, worked by hand."""

import subprocess
import sys

import torch
from torch.utils.flop_counter import FlopCounterMode

from dcnlab.models.counting import count_macs
from dcnlab.nn import DeformConv2d
from dcnlab.ops import deform_conv2d, deform_ps_roi_pool, deform_roi_pool, ms_deform_attn

LAYER = 2 * (2 * 6 * 5 * 7) * (4 // 2 * 3 * 2)
"""Of a grouped layer's product: 2 images of 6 filters over 5x7 pixels; each of 2 channels and 3x2 taps."""


def count(call):
    """Operations by operator, ours alone."""
    with FlopCounterMode(display=False) as counter:
        call()
    counts = counter.get_flop_counts().get("Global", {})
    return {str(op).removeprefix("dcnlab."): n for op, n in counts.items() if str(op).startswith("dcnlab.")}


def arguments(**wanted):
    tensors = {
        "input": torch.randn(2, 4, 7, 8), "offset": torch.randn(2, 12, 5, 7), "weight": torch.randn(6, 2, 3, 2),
        "bias": torch.randn(6), "mask": torch.rand(2, 6, 5, 7),
    }  # fmt: skip
    for name, needed in wanted.items():
        tensors[name].requires_grad_(needed)
    return tensors


def test_a_deform_conv_counts_two_flops_per_multiply_add():
    """torch's FlopCounterMode counts products and sampling; a bias adds nothing."""
    assert count(lambda: deform_conv2d(**arguments())) == {"deform_conv2d": LAYER}
    assert count(lambda: deform_conv2d(**arguments(bias=True))) == {"deform_conv2d": LAYER}


def test_its_backward_counts_one_product_per_gradient():
    """One product for the columns' gradients and one for the weight's; none for the bias."""
    for wanted, products in (("weight", 1), ("input", 1), ("offset", 1), ("mask", 1), ("input weight", 2), ("bias", 0)):
        tensors = arguments(**dict.fromkeys(wanted.split(), True))
        found = count(lambda tensors=tensors: deform_conv2d(**tensors).sum().backward())
        assert found.get("deform_conv2d_backward", 0) == products * LAYER, wanted
    tensors = arguments(input=True, offset=True, mask=True, weight=True, bias=True)
    found = count(lambda: deform_conv2d(**tensors).sum().backward())
    assert found == {"deform_conv2d": LAYER, "deform_conv2d_backward": 2 * LAYER}


def test_roi_pooling_counts_four_multiply_adds_per_sample():
    """Each sample and channel costs four; the backward pass with offsets counts twice."""
    maps, boxes = torch.randn(1, 12, 9, 9, requires_grad=True), torch.tensor([[0, 0.0, 0, 5, 5], [0, 1, 2, 8, 8]])
    sensitive = 2 * 4 * (2 * 3 * 2 * 2) * 3 * 3
    offset = torch.randn(2, 2, 2, 2, requires_grad=True)
    found = count(lambda: deform_ps_roi_pool(maps, boxes, offset, 2, 1.0, 2, samples_per_bin=3).sum().backward())
    assert found == {"deform_ps_roi_pool": sensitive, "deform_ps_roi_pool_backward": 2 * sensitive}
    plain = 2 * 4 * (2 * 12 * 2 * 3) * 2 * 2
    found = count(lambda: deform_roi_pool(maps, boxes, None, (2, 3), sampling_ratio=2).sum().backward())
    assert found == {"deform_roi_pool": plain, "deform_roi_pool_backward": plain}
    assert count(lambda: deform_roi_pool(maps, boxes, None, (2, 3))) == {"deform_roi_pool": plain // 4}


def test_attention_counts_four_multiply_adds_per_sample():
    """Each sample and channel costs four; the backward pass once more for each gradient that is wanted."""
    samples, channels = 2 * 5 * 3 * (2 * 4), 8  # images, queries, heads; levels, points
    once = 2 * 4 * samples * channels
    value, weights = torch.randn(2, 26, 3, channels, requires_grad=True), torch.rand(2, 5, 3, 2, 4)
    locations, levels = torch.rand(2, 5, 3, 2, 4, 2, requires_grad=True), ([(4, 5), (2, 3)], [0, 20])
    found = count(lambda: ms_deform_attn(value, *levels, locations, weights).sum().backward())
    assert found == {"ms_deform_attn": once, "ms_deform_attn_backward": 2 * once}


def test_exported_and_compiled_graphs_count_as_the_layer_does():
    """The operator stays one node there, so the counter finds it."""
    layer, image = DeformConv2d(4, 6, 3, padding=1, dtype=torch.float64), torch.randn(1, 4, 8, 8, dtype=torch.float64)
    want = 2 * (6 * 64) * (4 * 9)
    exported = torch.export.export(layer, (image,)).module()
    assert count(lambda: exported(image)) == {"deform_conv2d": want}
    compiled = torch.compile(layer, backend="aot_eager")
    compiled(image).sum().backward()
    found = count(lambda: compiled(image).sum().backward())
    assert found == {"deform_conv2d": want, "deform_conv2d_backward": 2 * want}


def test_complexity_is_half_of_torchs_flops():
    """count_macs gives multiply-adds, FlopCounterMode two operations for each."""
    layer = DeformConv2d(4, 6, 3, padding=1, modulated=True)
    with FlopCounterMode(display=False) as counter:
        layer(torch.randn(1, 4, 8, 8))
    assert counter.get_total_flops() == 2 * count_macs(layer, torch.randn(1, 4, 8, 8)) == 2 * 64 * 36 * (6 + 27)


COUNTING = """
import sys, torch, dcnlab.ops
assert "torch.utils.flop_counter" not in sys.modules
from torch.utils.flop_counter import FlopCounterMode
assert type(sys.meta_path[0]).__module__ != "dcnlab.ops.flops"
tensors = [torch.zeros(size, device="meta") for size in ((1, 1, 3, 3), (1, 2, 3, 3), (1, 1, 1, 1))]
with FlopCounterMode(display=False) as counter:
    dcnlab.ops.deform_conv2d(*tensors)
print(counter.get_total_flops())
"""


def test_operators_register_with_a_later_flop_counter():
    """A fresh process imports the operators first; in this file the counter comes before them."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", COUNTING], capture_output=True, text=True, check=True)
    assert done.stdout == "18\n"
