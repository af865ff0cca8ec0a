"""Ground truth of boxes from the targets of batches, for loaders that are not of our data modules."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def scaled_boxes(boxes: Tensor, seen: Sequence[int], size: Sequence[int]) -> Tensor:
    """Boxes (n, 4) of an image as the network saw it, in the pixels of its file.

    Args:
        boxes: x1, y1, x2, y2.
        seen: height and width of the network's input.
        size: height and width of the file.
    """
    height, width = (there / here for there, here in zip(size, seen, strict=True))
    return boxes.float() * boxes.new_tensor([width, height, width, height]).float()


def coco_truth(targets: Mapping[int, Mapping[str, Any]], classes: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """The ground truth of targets in COCO's form, category ids being labels.

    Args:
        targets: by the image's number: `boxes` (n, 4) and `labels` (n,) 1..C, `size`, height and width, and where boxes
            need not be found `difficult` and `iscrowd` (n,).
        classes: names of the labels 1..C.
    """
    images, annotations = [], list[dict[str, Any]]()
    for number, target in sorted(targets.items()):
        images.append({"id": number, "height": target["size"][0], "width": target["size"][1]})
        corners = target["boxes"]
        sides = corners[:, 2:] - corners[:, :2]
        none = torch.zeros(len(corners), dtype=torch.int64)
        rows = zip(
            target["labels"].tolist(),
            torch.cat([corners[:, :2], sides], 1).tolist(),
            sides.prod(1).tolist(),
            target.get("iscrowd", none).int().tolist(),
            target.get("difficult", none).int().tolist(),
            strict=True,
        )
        for label, box, area, crowd, difficult in rows:
            annotation = {"id": len(annotations) + 1, "image_id": number, "category_id": label, "bbox": box}
            annotations.append({**annotation, "area": area, "iscrowd": crowd, "difficult": difficult})
    categories = [{"id": label, "name": name} for label, name in enumerate(classes, 1)]
    return {"images": images, "categories": categories, "annotations": annotations}


def restricted(truth: Mapping[str, Any], seen: Collection[int]) -> Mapping[str, Any]:
    """The ground truth of the images that were seen; all of it, unless `trainer.limit_test_batches` or the like is set.

    Args:
        truth: in COCO's form.
        seen: numbers of images.
    """
    if len(truth["images"]) <= len(seen):
        return truth
    images = [image for image in truth["images"] if image["id"] in seen]
    annotations = [annotation for annotation in truth["annotations"] if annotation["image_id"] in seen]
    return {**truth, "images": images, "annotations": annotations}
