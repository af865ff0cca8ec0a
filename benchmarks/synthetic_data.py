"""Synthetic data sets in VOC's and COCO's forms, whose reading and scoring is counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZE = 240, 320
"""Height and width of the synthetic data sets' images."""


def random_boxes(count: int) -> np.ndarray:
    """(count, 4) int, x1, y1, x2, y2 from 1, inside the image."""
    random = np.random.default_rng(count)
    height, width = SIZE
    corners = random.integers(1, (width // 2, height // 2), (count, 2))
    return np.concatenate([corners, corners + random.integers(8, (width // 2, height // 2), (count, 2))], 1)


def voc_folder(root: Path, images: int) -> Path:
    """A VOC-style folder with three objects an image."""
    names = [f"{number:06}" for number in range(images)]
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "ImageSets/Main/train.txt").write_text("\n".join(names) + "\n")
    pixels = np.random.default_rng(0).integers(0, 256, (SIZE[0] // 8, SIZE[1] // 8, 3), np.uint8)
    picture = Image.fromarray(pixels).resize(SIZE[::-1], Image.Resampling.BICUBIC)
    boxes = random_boxes(3 * images).tolist()
    for number, name in enumerate(names):
        picture.save(root / "JPEGImages" / f"{name}.jpg", quality=90)
        objects = "".join(
            f"<object><name>{kind}</name><pose>Left</pose><truncated>0</truncated><difficult>0</difficult><bndbox>"
            f"<xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
            for kind, (x1, y1, x2, y2) in zip(("dog", "cat", "person"), boxes[3 * number :], strict=False)
        )
        size = f"<size><width>{SIZE[1]}</width><height>{SIZE[0]}</height><depth>3</depth></size>"
        (root / "Annotations" / f"{name}.xml").write_text(
            f"<annotation><folder>VOC</folder><filename>{name}.jpg</filename>{size}{objects}</annotation>\n"
        )
    return root


def ground_truth(images: int) -> dict[str, Any]:
    """COCO's form, six objects an image, four classes."""
    entries = []
    for number, (x1, y1, x2, y2) in enumerate(random_boxes(6 * images).tolist()):
        box = [x1, y1, x2 - x1, y2 - y1]
        mask = [[x1, y1, x2, y1, x2, y2, x1, y2]]
        entry = {"id": number + 1, "image_id": number // 6 + 1, "category_id": number % 4 + 1, "bbox": box}
        entries.append(entry | {"area": box[2] * box[3], "iscrowd": 0, "segmentation": mask})
    return {
        "images": [
            {"id": number, "file_name": f"{number:012}.jpg", "height": SIZE[0], "width": SIZE[1]}
            for number in range(1, images + 1)
        ],
        "categories": [{"id": number, "name": name} for number, name in enumerate(("dog", "cat", "cow", "bus"), 1)],
        "annotations": entries,
    }
