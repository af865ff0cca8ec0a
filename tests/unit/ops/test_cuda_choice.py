"""When the fused kernel serves: the variable, the rule's file, and what lies outside what was measured."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace

import fused as benchmark
import pytest
import torch

from dcnlab.ops.cuda import cache, fused_dispatch
from dcnlab.ops.geometry import ConvGeometry

GEOMETRY = ConvGeometry(
    batch=1,
    channels=64,
    height=64,
    width=64,
    out_channels=64,
    out_height=64,
    out_width=64,
    kernel=(3, 3),
    stride=(1, 1),
    padding=(1, 1),
    dilation=(1, 1),
    groups=1,
    offset_groups=1,
)


class OnCuda(torch.Tensor):
    """A tensor that says it lies on a CUDA device."""

    @property
    def is_cuda(self) -> bool:
        return True

    def get_device(self) -> int:
        return 0


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """A GPU of this name and architecture, on which the fused kernel was measured in bfloat16."""
    entry = {"torch.bfloat16": {"least_channels": 64, "most_channels": 128, "least_pixels": 1024}}
    (tmp_path / "fused.json").write_text(json.dumps({"schema": 1, "devices": {"Measured": entry}}))
    monkeypatch.setenv("DCNLAB_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("DCNLAB_FUSED", raising=False)
    fused_dispatch.crossovers.cache_clear()

    def make(name: str = "Measured", architecture: int = 90) -> None:
        monkeypatch.setattr(fused_dispatch, "_name", lambda device: name)
        monkeypatch.setattr(fused_dispatch, "_architecture", lambda device: architecture)

    make()
    yield make
    fused_dispatch.crossovers.cache_clear()


def serves(dtype=torch.bfloat16, cuda=True, **changed) -> bool:
    tensor = torch.zeros(8, dtype=dtype)
    return fused_dispatch.serves(tensor.as_subclass(OnCuda) if cuda else tensor, tensor, replace(GEOMETRY, **changed))


def test_a_measured_gpu_fuses_what_the_measurement_covers(gpu):
    """Larger channels, batches and maps up to the measured crossover use the fused kernel."""
    assert serves()
    assert serves(channels=128, out_channels=128, batch=8)
    assert serves(out_height=32, out_width=32)
    assert serves(stride=(2, 2), dilation=(2, 2))


@pytest.mark.parametrize(
    "changed",
    [
        {"channels": 136},
        {"out_channels": 136},
        {"channels": 56},
        {"out_channels": 56},
        {"out_height": 31, "out_width": 33},
        {"kernel": (1, 1)},
        {"kernel": (5, 5)},
        {"offset_groups": 2},
        {"groups": 2},
        {"dtype": torch.float32},
        {"cuda": False},
    ],
    ids=str,
)
def test_cases_outside_the_measurement_use_chunks(gpu, changed):
    """One setting at a time is outside the measured channels, pixels or kernel."""
    assert not serves(**changed)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("architecture", [80, 86, 90, 120])
def test_an_unmeasured_gpu_fuses_half_precision_up_to_128(gpu, dtype, architecture):
    """Up to 128 channels from compute capability 8.0; never float32, 5x5 kernels or Turing."""
    gpu("Never seen", architecture)
    assert serves(dtype)
    assert serves(dtype, channels=128, out_channels=128, out_height=7, out_width=5)
    assert serves(dtype, channels=8, out_channels=16)
    assert not serves(dtype, channels=136)
    assert not serves(dtype, out_channels=136)
    assert not serves(dtype, kernel=(5, 5))
    assert not serves(torch.float32)
    gpu("Never seen", 75)
    assert not serves(dtype)


def test_an_unmeasured_dtype_follows_the_default_rule(gpu):
    """A device measured in bfloat16 alone still fuses small float16 maps."""
    assert serves(torch.float16, channels=16, out_height=3, out_width=3)
    assert not serves(torch.bfloat16, channels=16)


def test_a_measurement_without_gain_overrides_the_default(gpu):
    """It holds for its own dtype; float16, not measured, follows the default rule."""
    assert benchmark.keep("Slow", {"torch.bfloat16": None})
    gpu("Slow")
    assert not serves(torch.bfloat16)
    assert serves(torch.float16)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"devices": 3}',
        b'{"devices": {"Measured": 3}}',
        b'{"devices": {"Measured": {"torch.bfloat16": {"most_channels": 64}}}}',
        b'{"devices": {"Measured": {"torch.bfloat16": {"least_channels": 1, "most_channels": "9"}}}}',
        b'{"devices": {"Measured": {"torch.bfloat16": {"least_channels": 1, "most_channels": 9, "least_pixels": ""}}}}',
        b"\xff\xfe",
    ],
    ids=repr,
)
def test_a_broken_measurement_file_is_ignored_with_one_warning(gpu, tmp_path, content):
    """Each broken content warns once, names the program that writes it, and the default rule counts."""
    (tmp_path / "fused.json").write_bytes(content)
    with pytest.warns(UserWarning, match=r"fused\.json is not what benchmarks/fused\.py --rule writes"):
        assert serves(channels=16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert serves(channels=16)
    assert benchmark.keep("Measured", {"torch.bfloat16": fused_dispatch.Crossover(64, 64, 1)})
    assert fused_dispatch.crossovers("Measured") == {"torch.bfloat16": fused_dispatch.Crossover(64, 64, 1)}


def test_dcnlab_fused_overrides_the_measurement(gpu, monkeypatch):
    """always, rule and never."""
    gpu("Never seen")
    monkeypatch.setenv("DCNLAB_FUSED", "always")
    assert serves()
    assert serves(channels=512, out_channels=512, kernel=(5, 5), offset_groups=4)
    monkeypatch.setenv("DCNLAB_FUSED", "rule")
    assert not serves(channels=512)
    monkeypatch.setenv("DCNLAB_FUSED", "never")
    assert not serves()


def test_never_holds_on_a_measured_device_too(gpu, monkeypatch):
    monkeypatch.setenv("DCNLAB_FUSED", "never")
    assert not serves()


def test_gpus_before_ampere_never_use_the_fused_kernel(gpu, monkeypatch):
    """Turing lacks its instructions, so DCNLAB_FUSED=always must not force it."""
    monkeypatch.setenv("DCNLAB_FUSED", "always")
    gpu(architecture=75)
    assert not serves()
    gpu(architecture=80)
    assert serves()


def test_an_unknown_dcnlab_fused_lists_the_three_values(gpu, monkeypatch):
    """DCNLAB_FUSED=yes is refused in one line."""
    monkeypatch.setenv("DCNLAB_FUSED", "yes")
    with pytest.raises(ValueError, match=r"^DCNLAB_FUSED=yes: it can be rule, always or never$"):
        serves()


def rows(gains: dict[tuple[int, int], float]) -> list[dict[str, float]]:
    """Measurements: how many times faster, by channels and pixels."""
    return [
        {"channels": channels, "batch": 1, "height": pixels, "width": 1, "times_faster": gain}
        for (channels, pixels), gain in gains.items()
    ]


def test_the_crossover_ends_before_the_first_slower_channels():
    """Faster results at more channels do not count where one map at fewer channels was not faster."""
    gains = {(64, 900): 1.3, (64, 4096): 1.2, (128, 900): 1.1, (128, 4096): 1.06, (256, 900): 1.04, (256, 4096): 2.0}
    assert benchmark.crossover(rows(gains)) == fused_dispatch.Crossover(64, 128, 900)
    again = gains | {(512, 900): 9.0, (512, 4096): 9.0}
    assert benchmark.crossover(rows(again)) == fused_dispatch.Crossover(64, 128, 900)
    assert benchmark.crossover(rows(gains | {(64, 4096): 1.0})) is None


def test_the_benchmark_writes_what_the_operator_reads(gpu):
    """A measurement of one device changes no other device's entry and no other dtype's."""
    assert benchmark.keep("Another", {"torch.float16": fused_dispatch.Crossover(64, 64, 500), "torch.bfloat16": None})
    assert fused_dispatch.crossovers("Another") == {
        "torch.float16": fused_dispatch.Crossover(64, 64, 500),
        "torch.bfloat16": None,
    }
    assert fused_dispatch.crossovers("Measured") == {"torch.bfloat16": fused_dispatch.Crossover(64, 128, 1024)}
    assert benchmark.keep("Measured", {"torch.float32": fused_dispatch.Crossover(64, 96, 1024)})
    assert fused_dispatch.crossovers("Another")["torch.bfloat16"] is None
    assert list(fused_dispatch.crossovers("Measured")) == ["torch.bfloat16", "torch.float32"]


def test_a_first_measurement_makes_its_cache_folder(gpu, monkeypatch, tmp_path):
    """A folder that cannot be made is a warning with its path, and False is returned."""
    monkeypatch.setenv("DCNLAB_CACHE_DIR", str(tmp_path / "a" / "b"))
    assert benchmark.keep("First", {"torch.float16": fused_dispatch.Crossover(64, 64, 500)})
    assert fused_dispatch.crossovers("First") == {"torch.float16": fused_dispatch.Crossover(64, 64, 500)}
    monkeypatch.setenv("DCNLAB_CACHE_DIR", "/proc/nowhere")
    monkeypatch.setattr(cache, "_failures", [])
    with pytest.warns(UserWarning, match="/proc/nowhere"):
        assert not benchmark.keep("First", {"torch.float16": None})
