"""Which of torch's switches decides over the precision of the operators' matrix products."""

import sys
import threading

import pytest
import torch
from processes import GUARD
from torch.nn import functional

from dcnlab.ops import chunk_sizes, deform_conv2d
from dcnlab.ops.chunk_sizes import CpuChunks
from dcnlab.ops.precision import convolution_precision

CONV = {"cuda": torch.backends.cudnn.conv, "cpu": torch.backends.mkldnn.conv}
MATMUL = {"cuda": torch.backends.cuda.matmul, "cpu": torch.backends.mkldnn.matmul}
SWITCHES = [(backend, "fp32_precision") for backend in (*CONV.values(), *MATMUL.values(), torch.backends)]


@pytest.fixture(autouse=True)
def _switches():
    yield
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True
    for backend, name in SWITCHES:
        setattr(backend, name, "none")
    torch.backends.cudnn.conv.fp32_precision = torch.backends.cudnn.rnn.fp32_precision = "tf32"  # torch's own defaults


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("matmul", ["ieee", "tf32"])
@pytest.mark.parametrize("conv", ["ieee", "tf32"])
def test_products_follow_the_convolutions_tf32_switch(device, conv, matmul):
    """The switch for matrix products is restored afterwards, even after an exception."""
    CONV[device].fp32_precision, MATMUL[device].fp32_precision = conv, matmul
    with convolution_precision(device, torch.float32):
        assert MATMUL[device].fp32_precision == conv
    assert MATMUL[device].fp32_precision == matmul
    with pytest.raises(ZeroDivisionError), convolution_precision(device, torch.float32):
        raise ZeroDivisionError
    assert MATMUL[device].fp32_precision == matmul


def test_cudnn_allow_tf32_counts_too():
    """torch's older switch must forbid TF32 in our products as well."""
    torch.backends.cudnn.allow_tf32 = False
    try:
        with convolution_precision("cuda", torch.float32):
            assert torch.backends.cuda.matmul.fp32_precision != "tf32"
    finally:
        torch.backends.cudnn.allow_tf32 = True


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_an_inherited_switch_inherits_again_afterwards(device):
    """A matmul switch that took the general setting does so again after the call."""
    torch.backends.fp32_precision = "tf32"
    CONV[device].fp32_precision = "ieee"
    with convolution_precision(device, torch.float32):
        assert MATMUL[device].fp32_precision == "ieee"
    assert MATMUL[device].fp32_precision == "tf32"
    torch.backends.fp32_precision = "ieee"
    assert MATMUL[device].fp32_precision == "ieee"


def test_threads_share_and_restore_one_setting():
    """The first call to leave must not restore the switch under the second."""
    CONV["cpu"].fp32_precision, MATMUL["cpu"].fp32_precision = "ieee", "bf16"
    both_inside, first_is_out, seen = threading.Barrier(2, timeout=GUARD), threading.Event(), []

    def call(first: bool) -> None:
        with convolution_precision("cpu", torch.float32):
            both_inside.wait()
            if not first:
                first_is_out.wait(GUARD)
            seen.append(MATMUL["cpu"].fp32_precision)
        if first:
            first_is_out.set()

    threads = [threading.Thread(target=call, args=(first,)) for first in (True, False)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == ["ieee", "ieee"]
    assert MATMUL["cpu"].fp32_precision == "bf16"


def everything() -> dict[str, object]:
    """All that torch says of the precision of float32 products, by its older and its newer getters."""
    getters = {
        "older": torch.get_float32_matmul_precision,
        "allow_tf32": lambda: torch.backends.cuda.matmul.allow_tf32,
        "cudnn.allow_tf32": lambda: torch.backends.cudnn.allow_tf32,
        "cuda": lambda: MATMUL["cuda"].fp32_precision,
        "cpu": lambda: MATMUL["cpu"].fp32_precision,
    }
    return {name: getter() for name, getter in getters.items()}


def allow_tf32() -> None:
    torch.backends.cuda.matmul.allow_tf32 = True


SETTINGS = {
    "torch's defaults": lambda: None,
    "highest": lambda: torch.set_float32_matmul_precision("highest"),
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "allow_tf32": allow_tf32,
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize(
    ("device", "conv"), [("cuda", "tf32"), ("cuda", "ieee"), ("cpu", "ieee"), ("cpu", "none"), ("cpu", "bf16")]
)
def test_torchs_older_getters_work_in_other_threads(device, conv, setting):
    """During a call another thread may read the legacy TF32 getters without their mixing error."""
    SETTINGS[setting]()
    both = [torch.backends.cudnn.conv, torch.backends.cudnn.rnn] if device == "cuda" else [CONV["cpu"]]
    if device == "cuda":
        torch.backends.cudnn.allow_tf32 = conv == "tf32"
    before = {backend: backend.fp32_precision for backend in both}
    for backend in both:
        backend.fp32_precision = conv
    found, during = everything(), []
    with convolution_precision(device, torch.float32):
        reader = threading.Thread(target=lambda: during.append(everything()))
        reader.start()
        reader.join()
        inside = MATMUL[device].fp32_precision
    assert during, "a getter raised"
    assert (inside == "none" and conv in ("ieee", "none")) or inside == {"none": "ieee"}.get(conv, conv)
    assert during[0]["allow_tf32"] == (during[0]["cuda"] == "tf32")
    assert everything() == found
    for backend, value in before.items():
        backend.fp32_precision = value


@pytest.mark.parametrize(("device", "conv"), [("cuda", "ieee"), ("cuda", "tf32"), ("cpu", "ieee"), ("cpu", "bf16")])
def test_older_getters_can_be_read_while_calls_come_and_end(device, conv):
    """No getter raises in another thread, at whatever step of setting and putting back two calling threads are."""
    torch.set_float32_matmul_precision("medium")
    if device == "cuda":
        torch.backends.cudnn.allow_tf32 = conv == "tf32"
        torch.backends.cudnn.rnn.fp32_precision = conv
    CONV[device].fp32_precision = conv
    before, interval, failures, done = everything(), sys.getswitchinterval(), [], threading.Event()

    def read() -> None:
        while not done.is_set():
            try:
                everything()
            except RuntimeError as error:
                failures.append(error)

    def call() -> None:
        for _ in range(50):
            with convolution_precision(device, torch.float32):
                pass

    threads = [threading.Thread(target=work) for work in (read, call, call)]
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads[1:]:
            thread.join()
    finally:
        done.set()
        threads[0].join()
        sys.setswitchinterval(interval)
    assert not failures
    assert everything() == before


def test_a_value_set_during_a_call_is_replaced_when_it_ends():
    """The switch is the process's: a call that changed it puts back what it read, as the docstring says."""
    CONV["cpu"].fp32_precision, MATMUL["cpu"].fp32_precision = "ieee", "bf16"
    with convolution_precision("cpu", torch.float32):
        MATMUL["cpu"].fp32_precision = "tf32"
    assert MATMUL["cpu"].fp32_precision == "bf16"
    CONV["cpu"].fp32_precision = "bf16"
    with convolution_precision("cpu", torch.float32):  # changes nothing, and so puts nothing back
        MATMUL["cpu"].fp32_precision = "tf32"
    assert MATMUL["cpu"].fp32_precision == "tf32"


def test_a_cpu_call_leaves_the_gpus_precision_alone(monkeypatch):
    """bfloat16 products on the CPU do not allow TF32 on the GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    CONV["cpu"].fp32_precision = "bf16"
    with convolution_precision("cpu", torch.float32):
        assert MATMUL["cpu"].fp32_precision == "bf16"
        assert MATMUL["cuda"].fp32_precision in ("ieee", "none")
    assert everything() == {
        "older": "highest",
        "allow_tf32": False,
        "cudnn.allow_tf32": True,
        "cuda": "none",
        "cpu": "none",
    }


def test_conflicting_switches_are_followed_and_restored():
    """Where torch's own getter raises, the convolution's switch counts and nothing is repaired."""
    MATMUL["cuda"].fp32_precision, CONV["cuda"].fp32_precision = "tf32", "ieee"
    with pytest.raises(RuntimeError, match="mix of the legacy and new APIs"):
        torch.get_float32_matmul_precision()
    with convolution_precision("cuda", torch.float32):
        assert MATMUL["cuda"].fp32_precision == "ieee"
    assert MATMUL["cuda"].fp32_precision == "tf32"


def test_calls_on_cpu_and_gpu_restore_both_switches():
    """Nested calls on both devices leave the precision that the user had set."""
    torch.set_float32_matmul_precision("medium")
    CONV["cuda"].fp32_precision = "ieee"
    with convolution_precision("cuda", torch.float32), convolution_precision("cpu", torch.float32):
        assert [MATMUL[device].fp32_precision for device in ("cuda", "cpu")] == ["ieee", "ieee"]
    assert [MATMUL[device].fp32_precision for device in ("cuda", "cpu")] == ["tf32", "bf16"]
    assert torch.get_float32_matmul_precision() == "medium"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_sums_in_float32(dtype):
    """The switch for reduced-precision reductions is off in the call and restored after it."""
    matmul, short = torch.backends.cuda.matmul, {torch.float16: "fp16", torch.bfloat16: "bf16"}[dtype]
    name = f"allow_{short}_reduced_precision_reduction"
    before = getattr(matmul, name), getattr(matmul, f"{name}_split_k")
    assert before == (True, True)
    with convolution_precision("cuda", dtype):
        assert (getattr(matmul, name), getattr(matmul, f"{name}_split_k")) == (False, True)
    assert (getattr(matmul, name), getattr(matmul, f"{name}_split_k")) == before


def error_of(function) -> float:
    torch.manual_seed(0)
    input, weight, offset = torch.randn(1, 256, 24, 24), torch.randn(256, 256, 3, 3), torch.zeros(1, 18, 24, 24)
    exact = functional.conv2d(input.double(), weight.double(), padding=1)
    found = (
        function(input, weight, padding=1)
        if function is functional.conv2d
        else function(input, offset, weight, padding=1)
    )
    return ((found - exact).abs().max() / exact.abs().max()).item()


@pytest.mark.parametrize("rows", [1 << 20, 64], ids=["products", "products of packed filters"])
def test_matmul_precision_medium_changes_no_bit(rows, monkeypatch):
    """Only the convolution's own switch loosens the operator, as for torch's conv2d."""
    monkeypatch.setattr(chunk_sizes, "CPU", CpuChunks(columns_bytes=1, min_rows=rows))
    strict = error_of(deform_conv2d)
    assert strict < 1e-6
    torch.set_float32_matmul_precision("medium")
    try:
        assert error_of(deform_conv2d) == strict
    finally:
        torch.set_float32_matmul_precision("highest")
    CONV["cpu"].fp32_precision = "bf16"
    if error_of(functional.conv2d) < 1e-4:
        pytest.skip("this processor multiplies no float32 as bfloat16")
    assert 1e-4 < error_of(deform_conv2d) < 2e-2
