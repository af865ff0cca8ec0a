"""The parameters of compiled kernels, read from a cubin: what the driver copies at a launch."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator

_INFO = ".nv.info."
_KPARAM_INFO = 0x17
"""Attribute of a kernel's section: one parameter's ordinal, offset and size."""


def image_at(address: int) -> bytes:
    """The ELF image that begins at an address, whose length its own tables tell."""
    header = ctypes.string_at(address, 64)
    ends = []
    for at_offset, at_size in ((0x28, 0x3A), (0x20, 0x36)):  # section and program headers
        (offset,) = struct.unpack_from("<Q", header, at_offset)
        size, count = struct.unpack_from("<HH", header, at_size)
        ends.append(offset + size * count)
    return ctypes.string_at(address, max(ends))


def parameter_sizes(image: bytes) -> dict[str, list[int]]:
    """The bytes of each parameter of each kernel, in order.

    Raises:
        ValueError: the image is not an ELF file.
    """
    if image[:4] != b"\x7fELF":
        raise ValueError(f"a cubin begins with ELF's mark, not with {image[:4]!r}")
    found = {}
    for name, data in _sections(image):
        if name.startswith(_INFO):
            sizes = dict(_parameters(data))
            found[name.removeprefix(_INFO)] = [sizes[ordinal] for ordinal in range(len(sizes))]
    return found


def _sections(image: bytes) -> Iterator[tuple[str, bytes]]:
    (table,) = struct.unpack_from("<Q", image, 0x28)
    size, count, of_names = struct.unpack_from("<HHH", image, 0x3A)
    rows = [struct.unpack_from("<IIQQQQ", image, table + size * number) for number in range(count)]
    names = rows[of_names][4]
    for name, kind, _, _, offset, length in rows:
        first = names + name
        text = image[first : image.index(b"\0", first)].decode()
        yield text, b"" if kind == 8 else image[offset : offset + length]  # 8: takes no room in the file


def _parameters(data: bytes) -> Iterator[tuple[int, int]]:
    """Ordinal and size of the parameters that a kernel's section lists."""
    at = 0
    while at < len(data):
        form, attribute = data[at], data[at + 1]
        length = 0
        if form == 4:  # a value of its own length follows
            (length,) = struct.unpack_from("<H", data, at + 2)
            if attribute == _KPARAM_INFO:
                _, ordinal, _, flags = struct.unpack_from("<IHHI", data, at + 4)
                yield ordinal, flags >> 18 & 0x3FFF
        at += 4 + length
