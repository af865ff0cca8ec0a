"""How output pixels are cut into chunks, and the limits on them."""

import random

import pytest
import torch

from dcnlab.ops import chunk_sizes
from dcnlab.ops.cuda import chunks
from dcnlab.ops.geometry import ConvGeometry


def geometry(channels: int, height: int, width: int, batch: int = 1) -> ConvGeometry:
    return ConvGeometry(batch, channels, height, width, channels, height, width, (3, 3), (1, 1), (1, 1), (1, 1), 1, 1)


def sizes(found: tuple[chunks.Chunk, ...]) -> list[int]:
    return [chunk.stop - chunk.start for chunk in found]


@pytest.mark.parametrize(
    ("shape", "limit", "expected"),
    [
        ((512, 64, 64), 4096, [4096]),
        ((512, 64, 64), 4095, [2048, 2048]),
        ((512, 64, 64), 1365, [1024, 1024, 1024, 1024]),  # were 1365, 1365, 1365, 1
        ((512, 38, 63), 2394, [2394]),
        ((512, 38, 63), 1365, [1280, 1114]),
        ((512, 38, 63), 682, [640, 640, 640, 474]),
        ((128, 128, 128), 10922, [8192, 8192]),
        ((512, 64, 64, 8), 20000, [4 * 4096, 4 * 4096]),
        ((512, 64, 64, 8), 3 * 4096, [3 * 4096, 3 * 4096, 2 * 4096]),
        ((512, 64, 64, 2), 3000, [2048, 2048, 2048, 2048]),
        ((64, 256, 256), 58254, [32768, 32768]),
    ],
)
def test_chunks_are_equal_and_of_whole_tiles_of_128_rows(shape, limit, expected):
    assert sizes(chunks.cut(geometry(*shape), limit)) == expected


@pytest.mark.parametrize("seed", range(200))
def test_chunks_are_even_complete_and_within_the_limit(seed):
    """Random maps: chunks follow one another and none is below half the largest."""
    r = random.Random(seed)
    g = geometry(8, r.randint(1, 60), r.randint(1, 60), r.randint(1, 9))
    limit = r.choice([1, 2, 3, 7, r.randint(1, 200), r.randint(1, 4000), r.randint(1, 40000)])
    found = chunks.cut(g, limit)
    assert max(sizes(found)) <= limit
    assert 2 * min(sizes(found)) >= max(sizes(found))
    assert [chunk.start for chunk in found] == [0, *(chunk.stop for chunk in found[:-1])]
    assert found[-1].stop == g.pixels
    area = g.out_height * g.out_width
    for chunk in found:
        assert chunk.first_image == chunk.start // area
        assert chunk.images == -(-chunk.stop // area) - chunk.first_image
        assert chunk.continues == (chunk.start % area > 0)
        rows = 9 * (chunk.stop - chunk.start)
        assert [int(value) for value in chunk.scalars] == [chunk.start, rows, chunk.first_image]


def test_an_empty_batch_has_no_chunks():
    assert chunks.cut(geometry(8, 4, 4, 0), 100) == ()


def test_dcnlab_columns_mib_sets_the_memory_budget(monkeypatch):
    """24 means 24 MiB; the default lies between 128 and 256 MiB."""
    monkeypatch.delenv(chunk_sizes.VARIABLE, raising=False)
    assert chunk_sizes.cuda_bytes() == chunk_sizes.CUDA_BYTES
    assert 128 << 20 <= chunk_sizes.CUDA_BYTES <= 256 << 20
    monkeypatch.setenv(chunk_sizes.VARIABLE, "24")
    assert chunk_sizes.cuda_bytes() == 24 << 20


@pytest.mark.parametrize("value", ["", "0", "-1", "1.5", "24M", "many"])
def test_a_budget_must_be_a_whole_number_of_mib(monkeypatch, value):
    """DCNLAB_COLUMNS_MIB with 0, a fraction, a unit or a word is refused in one line."""
    monkeypatch.setenv(chunk_sizes.VARIABLE, value)
    with pytest.raises(ValueError, match=f"^DCNLAB_COLUMNS_MIB={value}: it can be a whole number of MiB, 1 or more$"):
        chunk_sizes.cuda_bytes()


def test_row_limits_keep_memory_below_torchvisions():
    """torchvision's memory by its source; columns and sorting entries together must stay below it."""
    g = geometry(512, 64, 64)
    assert chunks.torchvision_bytes(g, torch.float32, backward=True) == 4 * (4096 * 9 * 512 + 4096 * 512)
    assert chunks.torchvision_bytes(g, torch.float16, backward=False) == 2 * (4096 * 9 * 512 + 2 * 4096 * 512)
    # Its operator has no bfloat16; more than 32 images it takes one after another.
    assert chunks.torchvision_bytes(g, torch.bfloat16, True) == chunks.torchvision_bytes(g, torch.float32, True)
    many = geometry(8, 4, 4, 64)
    assert chunks.torchvision_bytes(many, torch.float64, True) == 8 * (32 * 16 * 72 + 64 * 16 * 8)
    assert chunks.row_limit(1000, 100, 10_000_000, 55_000_000) == 10_000  # columns decide
    assert chunks.row_limit(1000, 100, 100_000_000, 55_000_000) == 50_000  # both
    assert chunks.row_limit(1000, 24, 100_000_000, 1) == chunks.SMALL_BYTES // 1024
    assert chunks.row_limit(1000, 24, 1, 1) == 1
