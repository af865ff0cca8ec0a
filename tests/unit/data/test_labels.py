"""Label pictures: values as stored, whatever the PNG's kind, and what is said of those that are not right."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from dcnlab.data.labels import IGNORE, OUTSIDE, allowed_values, counted_lookup, lookup_of, read_label
from dcnlab.io.image_file import read_image

VALUES = np.array([[0, 1, 2], [3, 1, 0]], np.uint8)


def grey_png(bits, rows):
    """A grey PNG of so many bits a sample, put together by the PNG specification."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packed = b""
    for row in rows:
        digits = "".join(f"{value:0{bits}b}" for value in row)
        packed += b"\0" + int(digits.ljust(-(-len(digits) // 8) * 8, "0"), 2).to_bytes(-(-len(digits) // 8))
    head = struct.pack(">IIBBBBB", len(rows[0]), len(rows), bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(packed)) + chunk(b"IEND", b"")


def test_grey_values_are_read_as_stored(tmp_path):
    Image.fromarray(VALUES).save(tmp_path / "a.png")
    assert np.array_equal(read_label(tmp_path / "a.png"), VALUES)


def test_palette_labels_are_read_by_index(tmp_path):
    """The palette's colours must not be converted to grey values."""
    picture = Image.fromarray(VALUES).convert("P")
    picture.putdata(VALUES.ravel().tolist())
    picture.putpalette([200, 10, 10, 0, 250, 0, 7, 7, 7, 90, 90, 90])
    picture.save(tmp_path / "a.png")
    assert np.array_equal(read_label(tmp_path / "a.png"), VALUES)


def test_sixteen_bits_are_read_as_stored(tmp_path):
    """PIL must not scale them to 8 bits."""
    Image.fromarray(VALUES.astype(np.uint16) * 300).save(tmp_path / "a.png")
    assert np.array_equal(read_label(tmp_path / "a.png"), VALUES.astype(int) * 300)


@pytest.mark.parametrize(("bits", "most"), [(1, 1), (2, 3), (4, 15), (8, 255)])
def test_labels_of_1_2_and_4_bits_are_not_stretched(tmp_path, bits, most):
    """PIL scales grey of few bits to 255 when it converts."""
    rows = [[0, 1, most], [most, 1, 0]]
    (tmp_path / "a.png").write_bytes(grey_png(bits, rows))
    assert read_label(tmp_path / "a.png").tolist() == rows


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_a_label_of_several_channels_is_refused_by_name(tmp_path, mode):
    Image.new(mode, (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=rf"a\.png is a picture of mode {mode}; a label has one channel.*\Z"):
        read_label(tmp_path / "a.png")


@pytest.mark.parametrize("keep", [0, 7, 20, 40, 60])
def test_a_truncated_label_is_refused_by_name(tmp_path, keep):
    """A PNG cut after 0 to 60 bytes gives one line with the file."""
    noise = np.random.default_rng(0).integers(0, 9, (30, 30), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"\A[^\n]*a\.png cannot be read as a label[^\n]*\Z"):
        read_label(tmp_path / "a.png")


def test_class_numbers_skip_the_ignored_value():
    """With 1 as the ignored value, two classes have the values 0 and 2."""
    assert counted_lookup(3).tolist()[:4] == [0, 1, 2, OUTSIDE]
    assert counted_lookup(3)[255] == IGNORE
    assert counted_lookup(3, 0).tolist()[:5] == [IGNORE, 0, 1, 2, OUTSIDE]
    assert counted_lookup(2, 1).tolist()[:4] == [0, IGNORE, 1, OUTSIDE]


def test_allowed_values_are_printed_as_ranges():
    """0, 1, 2 and 7 are printed as "0 to 2, 7", ignored values behind them."""
    lookup = lookup_of({0: 0, 1: 1, 2: 2, 7: 3, 11: IGNORE, 12: IGNORE, 255: IGNORE})
    assert allowed_values(lookup) == "0 to 2, 7 and, ignored, 11 to 12, 255"


@pytest.mark.parametrize(("pixels", "name"), [(np.uint16(40_000), "a.png"), (np.float32(0.5), "a.tif")])
def test_photos_of_more_than_8_bits_are_refused(tmp_path, pixels, name):
    """PIL turns 16-bit and float grey images white when it converts them to RGB."""
    Image.fromarray(np.full((4, 4), pixels)).save(tmp_path / name)
    with pytest.raises(ValueError, match=rf"{name} cannot be read as an image .* grey of more than 8 bits"):
        read_image(tmp_path / name)


def test_photos_of_8_bit_grey_and_with_opacity_are_read(tmp_path):
    """Grey becomes three equal channels, and opacity is dropped."""
    for mode in ("L", "LA", "RGBA"):
        Image.new("L", (4, 3), 200).convert(mode).save(tmp_path / "a.png")
        assert np.array_equal(read_image(tmp_path / "a.png"), np.full((3, 4, 3), 200))
