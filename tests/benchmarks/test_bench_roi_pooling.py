"""The RoI pooling benchmark's peers do the work they are said to do."""

import numpy as np
import pytest
import roi_pooling
import scalar_psroi
import torch
import torchvision
from roi_pooling import BINS, GAMMA, SAMPLES, SCALE, Pooling
from runner import ORDERS, HostModule, skip_without_compiler

from dcnlab.ops import deform_ps_roi_pool
from dcnlab.ops.cuda.compile import compile_cubin, nvrtc_problem
from dcnlab.ops.cuda.source import ARCHITECTURES

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("case", range(4))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_scalar_port_equals_the_authors_kernel(goldens, case, dtype):
    """Output, sample counts and gradients equal the authors' golden arrays in every order of threads."""
    skip_without_compiler()
    with np.load(goldens / f"deform_psroi_pool_{case}.npz") as file:
        arrays = {name: torch.from_numpy(file[name]) for name in file.files}
    names = ("pooled_size", "spatial_scale", "group_size", "part_size", "sample_per_part", "trans_std")
    sizes = [arrays[name].item() for name in names]
    input, boxes, grad = (arrays[name].to(dtype) for name in ("input", "rois", "grad_output"))
    offset = None if arrays["no_trans"] else arrays["trans"].to(dtype)
    for order in ORDERS:
        peer = scalar_psroi.ScalarPool(*sizes, lambda dtype, o=order: HostModule(scalar_psroi.text(dtype), o))
        output, kept = peer.forward(input, boxes, offset)
        grad_input, grad_offset = peer.backward(grad, input, boxes, offset, kept)
        assert torch.equal(kept.double(), arrays["top_count"])
        found = {"output": output, "grad_input": grad_input}
        found |= {} if offset is None else {"grad_trans": grad_offset}
        for name, value in found.items():
            tolerance = 1e-12 if dtype == torch.float64 else 1e-5
            error = (value.double() - arrays[name]).abs().max() / max(1, arrays[name].abs().max())
            assert error <= tolerance, f"{name}: {error}"


@pytest.mark.skipif(nvrtc_problem() is not None, reason=str(nvrtc_problem()))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_scalar_port_compiles_for_every_architecture(dtype):
    """NVRTC compiles the port of the authors' kernel in each dtype without a warning."""
    for arch in ARCHITECTURES:
        report = compile_cubin(scalar_psroi.text(dtype), arch)
        assert set(report.kernels) == {"scalar_pool", "scalar_backward"}
        assert not report.warnings


@pytest.mark.parametrize("group", [1, 7])
def test_contenders_pool_equal_values_from_equal_inputs(group):
    """Every contender gets the same boxes, map and offsets, so that times are comparable."""
    pool = Pooling(8, group, boxes=5, height=20, width=24)
    found = {}
    for kind in roi_pooling.kinds(pool, "cpu"):
        settings = (kind, pool, torch.float32, "cpu")
        found[kind] = roi_pooling.make(*settings, backward=False)()
        grads = roi_pooling.make(*settings, backward=True)()
        assert [grad.shape for grad in grads] == [(1, 8 * group**2, 20, 24), (5, 2, BINS, BINS)][: len(grads)]
        assert len(grads) == (1 if kind == "torchvision" else 2)
    assert {tuple(output.shape) for output in found.values()} == {(5, 8, BINS, BINS)}
    input, boxes, offset, _ = pool.tensors(torch.float32)
    expected = deform_ps_roi_pool(input, boxes, offset, BINS, SCALE, group, BINS, SAMPLES, GAMMA)
    assert torch.equal(found["ours"], expected)
    peer = torchvision.ops.roi_align if group == 1 else torchvision.ops.ps_roi_align
    unshifted = {"aligned": True} if group == 1 else {}
    assert torch.equal(found["torchvision"], peer(input, boxes, BINS, SCALE, SAMPLES, **unshifted))


def test_a_scalar_port_in_half_precision_is_near_the_operator():
    """float16 and bfloat16 agree with deform_ps_roi_pool within their rounding."""
    skip_without_compiler()
    pool = Pooling(6, 1, boxes=7, height=16, width=20)
    for dtype in (torch.float16, torch.bfloat16):
        input, boxes, offset, grad = pool.tensors(dtype)
        peer = scalar_psroi.ScalarPool(
            *(BINS, SCALE, 1, BINS, SAMPLES, GAMMA), lambda dtype: HostModule(scalar_psroi.text(dtype), sanitize=False)
        )
        output, kept = peer.forward(input, boxes, offset)
        leaves = [input.requires_grad_(), offset.requires_grad_()]
        ours = deform_ps_roi_pool(*leaves[:1], boxes, leaves[1], BINS, SCALE, 1, BINS, SAMPLES, GAMMA)
        expected = torch.autograd.grad(ours, leaves, grad)
        found = peer.backward(grad, input.detach(), boxes, offset.detach(), kept)
        for value, other in ((output, ours), *zip(found, expected, strict=True)):
            scale = other.detach().double().abs().max()
            assert (value.double() - other.detach().double()).abs().max() <= 4 * torch.finfo(dtype).eps * scale
