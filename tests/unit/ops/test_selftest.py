"""What doctor runs: it passes where the operators are right, and fails where one kind of kernel is not."""

import pytest
import torch

from dcnlab import ops
from dcnlab.cli import doctor_gpu
from dcnlab.ops import selftest
from dcnlab.ops.cuda import fused_dispatch

DTYPES = list(selftest.TOLERANCES)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", selftest.OPERATORS)
def test_right_operators_pass_in_every_dtype(name, dtype):
    assert selftest.ways(name, "cpu", dtype) == ("vector", "scalar")
    for way in selftest.ways(name, "cpu", dtype):
        assert 0 < selftest.largest_error(name, "cpu", dtype, way) < selftest.TOLERANCES[dtype]


@pytest.mark.parametrize("wrong", [1.1, float("nan")])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", selftest.OPERATORS)
def test_the_self_test_finds_a_wrong_output_or_gradient(name, dtype, wrong, monkeypatch):
    """An operator off by 10% or NaN in one kind of kernel must raise, in every dtype."""
    right = getattr(ops, name)

    class Scaled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, tensor):
            return tensor.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad * wrong

    monkeypatch.setattr(ops, name, lambda features, *args, **options: right(Scaled.apply(features), *args, **options))
    with pytest.raises(RuntimeError, match=r"^vector kernels differ from the reference by "):
        selftest.largest_error(name, "cpu", dtype, "vector")
    monkeypatch.setattr(ops, name, lambda *args, **options: right(*args, **options) * wrong)
    with pytest.raises(RuntimeError, match=r"^scalar kernels differ from the reference by "):
        selftest.largest_error(name, "cpu", dtype, "scalar")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_the_fused_self_test_case_uses_the_fused_kernel(dtype, monkeypatch):
    """As on a GPU: on the CPU only the rule of `serves` could refuse the call."""
    with selftest._forced("fused"):
        arguments = selftest._case("deform_conv2d", dtype, selftest._CHANNELS["fused"])
        assert selftest._is_fused(arguments)
    with selftest._forced("vector"):
        assert not selftest._is_fused(arguments)


def test_an_unused_fused_kernel_fails_the_self_test(monkeypatch):
    """Otherwise the test would pass by comparing the chunked path."""
    monkeypatch.setattr(fused_dispatch, "serves", lambda *args: False)
    with pytest.raises(RuntimeError, match="the fused kernel does not take a call that it should"):
        selftest.largest_error("deform_conv2d", "cpu", torch.bfloat16, "fused")


def test_the_self_test_restores_forced_settings(monkeypatch):
    """Environment and precision are as before, even after an exception."""
    monkeypatch.setenv(fused_dispatch.VARIABLE, "always")
    before = torch.backends.cudnn.conv.fp32_precision
    with pytest.raises(ZeroDivisionError), selftest._forced("scalar"):
        raise ZeroDivisionError
    assert fused_dispatch.os.environ[fused_dispatch.VARIABLE] == "always"
    assert torch.backends.cudnn.conv.fp32_precision == before


@pytest.mark.parametrize(("capability", "fused"), [((9, 0), True), ((8, 0), True), ((7, 5), False)])
def test_doctor_tests_every_dtype_and_kernel_kind_on_the_gpu(monkeypatch, capability, fused):
    """Vector, scalar and, from compute capability 8.0, fused kernels run in each dtype."""
    asked = []
    monkeypatch.setattr(doctor_gpu, "_has_gpu", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(selftest, "largest_error", lambda *what: asked.append(what) or 1e-3)
    lines = [text for mark, text in doctor_gpu.operators() if mark == "ok"]
    on_gpu = {what for what in asked if what[1] == "cuda"}
    ways = {(name, dtype, way) for name in selftest.OPERATORS for dtype in DTYPES for way in ("vector", "scalar")}
    if fused:
        ways |= {("deform_conv2d", dtype, "fused") for dtype in DTYPES if dtype != torch.float64}
    assert {(name, dtype, way) for name, _, dtype, way in on_gpu} == ways
    line = "deform_conv2d, cuda, bfloat16, forward and backward: equals the reference to 1e-03 (vector), 1e-03 (scalar)"
    assert line + (", 1e-03 (fused)" if fused else "") in lines
    assert len(lines) == 4 + 16


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU")
def test_doctor_finds_the_operators_right_on_this_gpu():
    assert [text for mark, text in doctor_gpu.operators() if mark != "ok"] == []
