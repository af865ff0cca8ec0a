"""MATLAB's files as scipy writes them, and what is not one of them."""

import io
import struct

import numpy as np
import pytest

from dcnlab.io.mat_file import read_field

scipy_io = pytest.importorskip("scipy.io")


def saved(values, compressed=False, **more):
    """A file whose structure GTcls has `values` in its field Segmentation."""
    file = io.BytesIO()
    content = {"other": np.eye(3), "GTcls": {"A": 1.5, "Segmentation": values, **more}}
    scipy_io.savemat(file, content, do_compression=compressed)
    return file.getvalue()


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
@pytest.mark.parametrize("shape", [(1, 1), (3, 4), (2, 3, 4), (5, 0)])
def test_numbers_are_those_that_scipy_wrote(compressed, kind, shape):
    """Every dtype and shape, compressed or not, as scipy.io.savemat writes them."""
    values = np.arange(np.prod(shape)).reshape(shape).astype(kind)
    cells = np.empty((2, 1), object)
    cells[:, 0] = [np.zeros((3, 4), bool), "text"]
    content = saved(values, compressed, Boundaries=cells)
    found = read_field(content, "GTcls", "Segmentation")
    assert found.dtype == np.dtype(kind)
    assert np.array_equal(found, values)
    assert np.array_equal(found, scipy_io.loadmat(io.BytesIO(content))["GTcls"][0, 0]["Segmentation"])
    assert read_field(content, "GTcls", "A").tolist() == [[1.5]]


def test_big_endian_mat_files_are_read():
    """Written by hand, as scipy writes only little-endian files."""

    def element(kind, data):
        return struct.pack(">II", kind, len(data)) + data + bytes(-len(data) % 8)

    def matrix(kind, shape, name, *rest):
        head = element(6, struct.pack(">II", kind, 0)) + element(5, struct.pack(f">{len(shape)}i", *shape))
        return element(14, head + element(1, name) + b"".join(rest))

    numbers = matrix(11, (1, 3), b"", element(4, struct.pack(">3H", 1, 2, 770)))
    width = struct.pack(">HHi", 4, 5, 8)  # a small element: its length and kind share four bytes, the number follows
    whole = matrix(2, (1, 1), b"s", width, element(1, b"f\0\0\0\0\0\0\0"), numbers)
    assert read_field(bytes(126) + b"MI" + whole, "s", "f").tolist() == [[1, 2, 770]]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no MATLAB file of version 5"),
        (b"x" * 200, "no MATLAB file of version 5"),
        (saved(np.eye(2))[:300], "damaged"),
        (saved(np.eye(2), compressed=True)[:-30], "damaged"),
        (saved("text"), "holds no numbers"),
        (bytes(2**26 + 1), "larger than 64 MiB"),
    ],
    ids=["empty", "text", "cut", "cut when packed", "letters", "large"],
)
def test_foreign_mat_files_are_refused_in_one_line(content, said):
    """Empty, foreign, damaged and too large contents each give one line."""
    with pytest.raises(ValueError, match=rf"\A[^\n]*{said}[^\n]*\Z"):
        read_field(content, "GTcls", "Segmentation")


@pytest.mark.parametrize(("variable", "field"), [("none", "A"), ("GTcls", "none"), ("other", "A")])
def test_a_structure_or_field_that_is_not_there_is_named(variable, field):
    with pytest.raises(ValueError, match=r"\Aholds no (structure|field) \w+\Z"):
        read_field(saved(np.eye(2)), variable, field)
