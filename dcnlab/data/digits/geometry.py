"""Geometry: how digits are laid on the canvas of a scene."""

from __future__ import annotations

from dataclasses import dataclass

from dcnlab.io.errors import DataError


@dataclass(frozen=True)
class Geometry:
    """How digits are laid on a canvas; lengths marked "cell" are fractions of a digit's 28-pixel cell."""

    image_size: int = 56
    """Height and width of the canvas, pixels."""
    rotation: float = 180.0
    """Largest rotation to either side, degrees."""
    scale: tuple[float, float] = (1.0, 3.0)
    """Side of a digit's 28-pixel cell, in thirds of the canvas; a digit that would not fit is drawn smaller."""
    shear: float = 0.3
    """Largest shear to either side: a point's shift along x over its height."""
    warp: float = 0.08
    """Largest displacement of the smooth warp along x and along y, cell."""
    clutter: int = 4
    """Pieces of other digits behind the digits."""
    brightness: tuple[float, float] = (0.6, 1.0)
    """Range of the ink's brightness, of each digit and piece; paper is 0."""

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn, in one line that names the field."""
        if self.image_size < 8:
            raise DataError(f"image_size of digit scenes is {self.image_size}, should be at least 8 pixels")
        for name, (low, high), minimum, maximum in (
            ("scale", self.scale, 0.1, 100.0),
            ("brightness", self.brightness, 0.1, 1.0),
        ):
            if not minimum <= low <= high <= maximum:
                raise DataError(
                    f"{name} of digit scenes is ({low}, {high}): needs {minimum} <= low <= high <= {maximum}"
                )
        for name, value in (("rotation", self.rotation), ("shear", self.shear), ("clutter", self.clutter)):
            if value < 0:
                raise DataError(f"{name} of digit scenes is {value}, should not be negative")
        if not 0 <= self.warp <= 0.15:
            # Beyond, the displacement's slope passes 1 and the picture folds over itself.
            raise DataError(f"warp of digit scenes is {self.warp}, should be from 0 to 0.15 of the digit's cell")
