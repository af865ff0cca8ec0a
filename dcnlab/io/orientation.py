"""EXIF orientation: decides whether an image is rotated as its file says; warns once where nothing decides it."""

from __future__ import annotations

import logging
import multiprocessing
import warnings
from multiprocessing.synchronize import Semaphore
from pathlib import Path
from typing import Any

from PIL import Image

from dcnlab.io.errors import DataError

MODES = ("auto", "apply", "ignore")
"""Values of data.exif."""

_TAG = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TURNS_BACK = {**_TURNS, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}


class Orientation:
    """Decides for every image of a data set whether it is turned as its EXIF orientation says.

    With `auto`, the size in the annotation decides: an image is turned where only the turned image has that size, and
    stays as stored where only the stored image has it. Orientations 2, 3 and 4, and square images, have one size for
    both, and some images have no annotation. `upright` decides those, and the first one is named in a warning.

    Args:
        exif: auto; apply, which turns every image; or ignore, which turns none.
        upright: whether `auto` turns an image whose annotation's size does not decide.

    Raises:
        DataError: `exif` is none of `MODES`; one line.
    """

    def __init__(self, exif: str = "auto", upright: bool = True) -> None:
        if exif not in MODES:
            raise DataError(f"data.exif is {exif!r}; choose from: {', '.join(MODES)}")
        self.exif, self.upright = exif, upright
        self._warnings = _shared_counter(1)

    def __getstate__(self) -> dict[str, Any]:
        left = self._warnings.acquire(block=False)
        if left:
            self._warnings.release()
        return {"exif": self.exif, "upright": self.upright, "_warnings": int(left)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _warnings=_shared_counter(state["_warnings"]))

    def turns(self, path: Path, orientation: int, stored: tuple[int, int], annotated: tuple[int, int] | None) -> bool:
        """Decide for one image.

        Args:
            path: of the image, for the warning.
            orientation: as EXIF numbers them, 1 to 8.
            stored: height and width of the pixels as stored.
            annotated: height and width that the annotation states, or None.
        """
        if orientation == 1:
            return False
        if self.exif != "auto":
            return self.exif == "apply"
        turned = turned_size(stored, orientation)
        if annotated is not None and (stored != turned or annotated != stored):
            return annotated == turned
        self._warn(path, orientation)
        return self.upright

    def _warn(self, path: Path, orientation: int) -> None:
        if not self._warnings.acquire(block=False):
            return
        done = "turned upright, as viewers show it" if self.upright else "taken as stored, as torchvision does"
        logging.getLogger("dcnlab").warning(
            f"warning: {path} has the EXIF orientation {orientation}, and no size in an annotation says whether it is "
            f"meant turned; it is {done}, and so are others like it. Set data.exif=apply (turn all images) or "
            "data.exif=ignore (turn none)"
        )


def read_orientation(image: Image.Image) -> int:
    """Read the EXIF orientation of an opened image, 1 to 8; 1, upright, where it has none or a damaged one."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            orientation = image.getexif().get(_TAG, 1)
    except Exception:  # damaged EXIF makes PIL raise any exception, and the pixels are still right
        return 1
    return orientation if orientation in _TURNS else 1


def turned_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Height and width after turning: orientations 5 to 8 exchange them."""
    return (size[1], size[0]) if orientation >= 5 else size


def turn(image: Image.Image, orientation: int) -> Image.Image:
    """Turn stored pixels upright."""
    return image.transpose(_TURNS[orientation])


def turn_back(image: Image.Image, orientation: int) -> Image.Image:
    """Turn upright pixels back to how they are stored."""
    return image.transpose(_TURNS_BACK[orientation])


def _shared_counter(left: int) -> Semaphore:
    """The number of warnings that are left to forked loader processes together; two never take the same one."""
    return multiprocessing.get_context("fork").Semaphore(left)
