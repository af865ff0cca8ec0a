"""Checks the heads of image files for what would keep their decoders busy without end."""

from __future__ import annotations

import re
import struct
from typing import BinaryIO

from dcnlab.io.errors import DataError

MOST_SCANS = 64
"""Of a JPEG; encoders write about ten, and each one goes over all the pixels."""
PPM_HEAD = 2**16
"""Bytes in which a PPM says its size, comments included."""
LARGEST_PLAIN = 2**26
"""Bytes of a PPM whose pixels are text; some seconds."""
MOST_COMMENTS = 1000
"""Among the pixels of such a PPM; the decoder copies a megabyte for each."""
MOST_PARTS = 2**20
"""Strips or tiles of a TIFF, or values of any of its tags."""

_PPM = re.compile(rb"P([1-6fFyY])")
_PLAIN = b"123"
_BYTES = (1, 2, 6, 7)
"""TIFF's types of one byte a value, which are kept as they are."""


def check(file: BinaryIO) -> None:
    """Refuse what its head alone shows; the file is at its beginning before and after.

    Raises:
        DataError: the reason, one line.
    """
    head = file.read(16)
    if _PPM.match(head):
        _check_ppm(file, head + file.read(PPM_HEAD - len(head)))
    elif head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        _check_tiff(file, head)
    file.seek(0)


def _check_ppm(file: BinaryIO, head: bytes) -> None:
    wanted = 3 if head[1:2] in b"14" else 4  # the kind, width, height and, but for bits, the greatest value
    if len(head) == PPM_HEAD and len(re.sub(rb"#[^\r\n]*", b"", head).split(maxsplit=wanted)) < wanted:
        raise DataError(f"its header is longer than {PPM_HEAD >> 10} KiB")
    if head[1:2] not in _PLAIN:
        return
    content = head + file.read(LARGEST_PLAIN + 1 - len(head))
    if len(content) > LARGEST_PLAIN:
        raise DataError(f"its pixels are text, and larger than {LARGEST_PLAIN >> 20} MiB")
    comments = content.count(b"#")
    if comments > MOST_COMMENTS:
        raise DataError(f"it has {comments} comments; allowed are {MOST_COMMENTS}")


def _check_tiff(file: BinaryIO, head: bytes) -> None:
    """Count the values of every tag of the first image; each costs the reader ten times its bytes."""
    order, big = ("<" if head[:2] == b"II" else ">"), head[2:4] in (b"+\0", b"\0+")
    start, number, entry = (8, "Q", "HHQ8x") if big else (4, "H", "HHI4x")
    try:
        (place,) = struct.unpack_from(f"{order}{'Q' if big else 'I'}", head, start)
        file.seek(place)
        (count,) = struct.unpack(order + number, file.read(struct.calcsize(f"={number}")))
        size = struct.calcsize(f"={entry}")
        entries = file.read(size * min(count, MOST_PARTS // size))
        tags = [struct.unpack_from(order + entry, entries, at) for at in range(0, len(entries) - size + 1, size)]
    except (struct.error, OverflowError, OSError):
        return  # damaged: the reader says how
    values = max((count for _, kind, count in tags if kind not in _BYTES), default=0)
    if values > MOST_PARTS:
        raise DataError(f"a tag of it has {values} values; allowed are {MOST_PARTS}")


def check_scans(file: BinaryIO) -> None:
    """Refuse a JPEG of too many scans; the file is where it was before.

    Raises:
        DataError: the reason, one line.
    """
    place = file.tell()
    file.seek(0)
    content = file.read()
    file.seek(place)
    # The bytes that mark a scan may also be in a thumbnail, so only many of them need to be looked at.
    if content.count(b"\xff\xda") > MOST_SCANS:
        scans = _scans(content)
        if scans > MOST_SCANS:
            raise DataError(f"it has more than {MOST_SCANS} scans")


def _scans(content: bytes) -> int:
    """Count the scans of the first image in a JPEG, up to one more than is allowed."""
    at, scans = 2, 0
    while scans <= MOST_SCANS:
        at = content.find(b"\xff", at)
        if at < 0 or at + 4 > len(content):
            break
        marker = content[at + 1]
        if marker == 0xFF:  # filled up
            at += 1
        elif marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:  # within a scan, or without a length
            at += 2
        elif marker == 0xD9:
            break
        else:
            scans += marker == 0xDA
            at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    return scans
