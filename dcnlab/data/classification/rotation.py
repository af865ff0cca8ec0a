"""Images rotated and scaled about their centre, for tests of a classifier's robustness."""

from __future__ import annotations

from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional


def turn(images: Tensor, rotation: float = 0.0, magnification: float = 1.0, background: float = 0.0) -> Tensor:
    """Rotate and scale images about their centre, by torchvision's affine; bilinear, sizes stay.

    Interpolates between pixels without averaging: a magnification far below 1 skips pixels.

    Args:
        images: (..., C, H, W), real numbers.
        rotation: degrees, counter-clockwise.
        magnification: factor above 0; what it moves out of the frame is lost.
        background: value of what comes into the frame from outside the image.

    Returns:
        (..., C, H, W); the given tensor itself if nothing changes.
    """
    if (rotation % 360 == 0 and magnification == 1) or images.numel() == 0:
        return images
    # Outside the image affine reads 0, which goes through the interpolation as any pixel; its own fill goes in twice.
    turned: Tensor = functional.affine(
        images - background,
        angle=-rotation,  # torchvision's goes clockwise
        translate=[0, 0],
        scale=magnification,
        shear=[0.0, 0.0],
        interpolation=InterpolationMode.BILINEAR,
    )
    return turned + background
