"""Reads untrusted image files: known formats only, their size checked before a pixel is decoded."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from dcnlab.io import image_heads
from dcnlab.io.errors import DataError
from dcnlab.io.files import open_regular, too_large
from dcnlab.io.orientation import Orientation, read_orientation, turn, turn_back, turned_size
from dcnlab.io.text import one_line

MOST_PIXELS = 2**30 // 12
"""Of an image: as three channels of float32, which networks take, these are 1 GiB. A file of kilobytes can say more.

The limit holds for the file's pixels and for what is made of them by resizing and padding."""

LARGEST = 2**29
"""Bytes of a file; `MOST_PIXELS` of three channels, not compressed, are half of it."""

Made = Callable[[int, int], tuple[int, int, str]]
"""Maps an image's height and width to those after resizing, and names the setting that resizes it."""

FORMATS = ("JPEG", "PNG", "BMP", "PPM", "TIFF", "WEBP", "GIF")
"""By content, whatever a file's name ends in. PIL knows more, one of which runs a program on the file (EPS)."""

ENDINGS = (
    ".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif",
    ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".jpe", ".jfif", ".apng",
)  # fmt: skip
"""Of these formats' files, in any case. Of two files of one name the first in this order is taken."""


@contextlib.contextmanager
def opened(path: str | Path, kind: str = "an image") -> Iterator[Image.Image]:
    """Open an image and check what its head says; its pixels are decoded when asked for.

    Args:
        path: of the file.
        kind: what it should be, for the error.

    Raises:
        DataError: it cannot be read or has more than `MOST_PIXELS`; also for what the caller's own block raises on
            the damaged rest of it; one line that names the file.
    """
    try:
        with warnings.catch_warnings(), open_regular(path) as file:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is ours
            if os.fstat(file.fileno()).st_size > LARGEST:
                raise too_large(LARGEST)
            image_heads.check(file)
            with Image.open(file, formats=FORMATS) as image:
                if image.width * image.height > MOST_PIXELS:
                    raise DataError(
                        f"it has {image.width * image.height} pixels, {image.width} x {image.height}; allowed are "
                        f"{MOST_PIXELS}"
                    )
                yield image
    except UnidentifiedImageError as error:
        reason = f"it is none of {', '.join(FORMATS)}"
        raise DataError(f"{path} cannot be read as {kind} ({reason}); replace or remove it") from error
    except Exception as error:  # a damaged file makes the decoders raise any exception
        raise DataError(f"{path} cannot be read as {kind} ({one_line(error)}); replace or remove it") from error


def decode(image: Image.Image) -> None:
    """Decode the pixels of an opened image.

    Raises:
        DataError: it is a JPEG of more scans than any program writes; the reason, one line.
    """
    if image.format in ("JPEG", "MPO"):
        image_heads.check_scans(image.fp)  # type: ignore[attr-defined]
    image.load()


def _too_large_made(path: str | Path, height: int, width: int, made: Made) -> str | None:
    """Why an image is refused: resized, it has more than `MOST_PIXELS`, as a long strip has; None: accepted."""
    large_height, large_width, how = made(height, width)
    if large_height * large_width <= MOST_PIXELS:
        return None
    return (
        f"{path} has height {height} and width {width}, and {how} would make height {large_height} and width "
        f"{large_width} of it, {large_height * large_width} pixels; allowed are {MOST_PIXELS}"
    )


def read_image(
    path: str | Path,
    orientation: Orientation | None = None,
    annotated: tuple[int, int] | None = None,
    made: Made | None = None,
) -> Image.Image:
    """Read an image as RGB; every photograph of users is read here, so that one rule says which are turned.

    Args:
        path: of the file.
        orientation: decides whether it is turned as its EXIF orientation says; None leaves it as stored.
        annotated: height and width that its annotation states, or None.
        made: says what the caller makes of an image of a size; None makes nothing larger.

    Raises:
        DataError: it cannot be read, is too large or would become so, or is grey of more than 8 bits; one line that
            names the file.
    """
    with opened(path) as image:
        refusal = None if made is None else _too_large_made(path, image.height, image.width, made)
        if refusal is None:
            picture, exif, by_pillow = _decoded(image)
    if refusal is not None:  # raised here, where the file is not called broken
        raise DataError(refusal)
    if exif == 1:
        return picture
    size = (picture.height, picture.width)
    stored = turned_size(size, by_pillow)  # exchanging height and width twice restores them
    wanted = orientation is not None and orientation.turns(Path(path), exif, stored, annotated)
    if wanted == (by_pillow != 1):
        return picture
    return turn(picture, exif) if wanted else turn_back(picture, exif)


def _decoded(image: Image.Image) -> tuple[Image.Image, int, int]:
    """An opened image as RGB, its EXIF orientation, and the orientation that PIL applied (1: none)."""
    if image.mode == "F" or image.mode.startswith("I"):  # PIL would turn all above 255 to white
        raise DataError(f"its mode is {image.mode}: grey of more than 8 bits")
    by_pillow = _turned_by_pillow(image)
    decode(image)
    return image.convert("RGB"), by_pillow if by_pillow != 1 else read_orientation(image), by_pillow


def image_size(path: Path, orientation: Orientation) -> tuple[int, int]:
    """Height and width of an image without an annotated size, as `read_image` gives it.

    Raises:
        DataError: it cannot be read or is too large; one line that names the file.
    """
    with opened(path) as image:
        by_pillow, exif = _turned_by_pillow(image), read_orientation(image)
        stored = turned_size((image.height, image.width), by_pillow)
    return turned_size(stored, exif) if orientation.turns(path, exif, stored, None) else stored


def _turned_by_pillow(image: Image.Image) -> int:
    """The orientation by which PIL turns an image on its own as it is decoded, as it does with TIFF; 1 is none."""
    return read_orientation(image) if image.format == "TIFF" else 1
