"""Image files that nobody vouches for: of known formats, of a size that is known before a pixel is decoded."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from dcnlab.data.paths import one_line

MOST_PIXELS = 2**30 // 12
"""Of an image: as three channels of float32, which networks take, these are 1 GiB. A file of kilobytes can say more."""

FORMATS = ("JPEG", "PNG", "BMP", "PPM", "TIFF", "WEBP", "GIF")
"""By content, whatever a file's name ends in. PIL knows more, one of which runs a program on the file (EPS)."""


@contextlib.contextmanager
def opened(path: str | Path, kind: str = "an image") -> Iterator[Image.Image]:
    """Open an image and check what its head says; its pixels are decoded when asked for.

    Args:
        path: of the file.
        kind: what it should be, for the error.

    Raises:
        ValueError: it cannot be read or has more than `MOST_PIXELS`; also for what the caller's own block raises on
            the damaged rest of it; one line that names the file.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is ours
            with Image.open(path, formats=FORMATS) as image:
                if image.width * image.height > MOST_PIXELS:
                    raise ValueError(
                        f"it has {image.width * image.height} pixels, {image.width} x {image.height}; allowed are "
                        f"{MOST_PIXELS}"
                    )
                yield image
    except Exception as error:  # a damaged file makes the decoders raise what they like
        raise ValueError(f"{path} cannot be read as {kind} ({one_line(error)}); replace or remove it") from error


def read_image(path: str | Path) -> Image.Image:
    """Read an image as RGB.

    Raises:
        ValueError: it cannot be read, is too large, or is grey of more than 8 bits; one line that names the file.
    """
    with opened(path) as image:
        if image.mode == "F" or image.mode.startswith("I"):  # PIL would turn all above 255 to white
            raise ValueError(f"its mode is {image.mode}: grey of more than 8 bits")
        return image.convert("RGB")
