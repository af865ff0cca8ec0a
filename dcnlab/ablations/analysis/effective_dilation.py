"""Measures the effective dilation of a run's deformable layers by object size (paper, table 2)."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from dcnlab.ablations.analysis.placed_maps import PlacedMap, Truth, boxes_of, place
from dcnlab.ablations.analysis.tracing import DeformedLayer, observe_image
from dcnlab.ablations.tables import dilation_table
from dcnlab.ablations.tables.block import Block
from dcnlab.ablations.tables.dilation_file import FILE
from dcnlab.config.schema import Config
from dcnlab.config.value_checks import choose
from dcnlab.data.detection.annotations import Annotations
from dcnlab.data.digits.datasets import DigitDetection
from dcnlab.io.atomic import write_whole
from dcnlab.io.errors import ConfigError
from dcnlab.metrics import box_dilation
from dcnlab.metrics.dilation_sizes import SIDES, SIZES
from dcnlab.metrics.effective_dilation import Spread, size_of_positions
from dcnlab.training.build_data import reading_data
from dcnlab.training.run import restore

AREAS = ("original", "resized")
"""Pixels that a box's area is counted in: those of the image file, or of the network's input."""


@dataclass
class Dilation:
    """Effective dilation at full precision."""

    rows: list[dict[str, Any]]
    """The last layer first, as in the paper: `layer`, `dilation`, and of each size None, or `mean`, `std`, `count`."""
    images: int
    areas: str
    sides: tuple[float, float]
    notes: list[str]


def measure(
    folder: Path,
    overrides: Sequence[str] = (),
    images: int | None = None,
    areas: str = "original",
    sides: tuple[float, float] = SIDES,
) -> Dilation:
    """Measure a run's deformable layers over its test split, and write FOLDER/dilation.json and dilation_boxes.npz.

    A filter belongs to the smallest annotated box, difficult objects included, that contains the centre of its
    undeformed grid. Mean and std are over all positions of all images. Positions in crowds and in the padding are
    left out.

    Args:
        folder: the run folder.
        overrides: key=value upon its config.
        images: number of images, from the first one; None: all.
        areas: original or resized, see `AREAS`. The paper does not say which it means.
        sides: of the squares, in these pixels, that separate small, medium and large boxes.

    Raises:
        ConfigError: the run has no deformable layers or no boxes, or it diverged; one line.
    """
    choose("--areas", areas, AREAS)
    config, parts = restore(folder, list(overrides))
    data, device = parts.data, parts.trainer.strategy.root_device
    if config.model.deform_layers == 0 or config.model.deform_kind != "deformable":
        raise ConfigError(
            f"{folder} has no deformable layer: its model.deform_layers is {config.model.deform_layers}, "
            f"model.deform_kind {config.model.deform_kind}"
        )
    spreads: dict[str, dict[str, Spread]] = {}
    dilations: dict[str, int | str] = {}
    maps: dict[str, list[PlacedMap]] = {}
    with reading_data():
        truth = _truth(config, data)
        count = len(data.test) if images is None else min(images, len(data.test))
        hidden = not sys.stderr.isatty()
        for index in track(range(count), "images", console=Console(stderr=True), transient=True, disable=hidden):
            image = data.test[index][0].to(device)
            for layer in _observe(folder, parts.task.model, image):
                of_layer = spreads.setdefault(layer.name, {size: Spread() for size in SIZES})
                vertical, horizontal = layer.dilation
                dilations[layer.name] = vertical if vertical == horizontal else f"{vertical}x{horizontal}"
                placed = place(layer, image, truth[index], index)
                _count(of_layer, placed, truth[index], areas, sides)
                maps.setdefault(layer.name, []).append(placed)
    rows = [
        {"layer": name, "dilation": dilations[name], **{size: spread.summary() for size, spread in of_layer.items()}}
        for name, of_layer in reversed(spreads.items())
    ]
    dilation = Dilation(rows, count, areas, sides, _notes(count, len(data.test)))
    write_whole(folder / FILE, json.dumps(_file(dilation), indent=2, allow_nan=False) + "\n")
    box_dilation.write(folder / box_dilation.FILE, boxes_of(maps, truth[:count]))
    return dilation


def _truth(config: Config, data: Any) -> list[Truth]:
    """Every test image's boxes."""
    annotations: Annotations
    if config.task == "detection":
        annotations = data.test.ground_truth
    elif config.data.name == "digits":
        annotations = DigitDetection(data.test.scenes).ground_truth
    else:
        raise ConfigError(
            f"task is {config.task}, and {config.data.name} has no boxes, which give the sizes; effective "
            "dilation is measured for detection, and for every task on digits"
        )
    truth = []
    for index, (height, width) in enumerate(annotations.sizes.tolist()):
        of_image = slice(*annotations.offsets[index : index + 2])
        boxes = torch.from_numpy(annotations.boxes[of_image])
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        truth.append(Truth(height, width, boxes, areas, torch.from_numpy(annotations.crowd[of_image])))
    return truth


def _observe(folder: Path, model: Any, image: Tensor) -> list[DeformedLayer]:
    try:
        return observe_image(model, image)
    except ConfigError as error:
        raise ConfigError(f"{folder}: {error}") from error


def _count(spreads: dict[str, Spread], placed: PlacedMap, truth: Truth, areas: str, sides: tuple[float, float]) -> None:
    """Add one image's positions of one layer."""
    y, x = placed.y, placed.x
    counted = truth.areas * (placed.enlarged[0] * placed.enlarged[1] if areas == "resized" else 1)
    sizes = size_of_positions(y, x, truth.boxes, counted, truth.crowd, sides)
    inside = ((y >= 0) & (y < truth.height))[:, None] & ((x >= 0) & (x < truth.width))
    for number, size in enumerate(SIZES):
        spreads[size].update(placed.values[inside & (sizes == number)])


def _notes(count: int, total: int) -> list[str]:
    notes = ["mean ± standard deviation over all positions, in pixels of the layer's own map"]
    if count < total:
        notes.append(f"only the first {count} of {total} test images")
    notes.append(
        "the paper's are of R-FCN on ResNet-101, VOC 2007 test; it does not say in which pixels boxes are counted"
    )
    return notes


def _file(dilation: Dilation) -> dict[str, Any]:
    keys = ("layer", *SIZES)
    rows = [{key: row[key] for key in keys} for row in dilation.rows]
    return {
        "schema": 1,
        "rows": rows,
        "images": dilation.images,
        "areas": dilation.areas,
        "sides": list(dilation.sides),
    }


def table(dilation: Dilation) -> tuple[list[dict[str, Any]], list[Block]]:
    """Rows for programs and a block for people; each layer is next to the paper's, counted from the last."""
    low, high = (f"{side:g}" for side in dilation.sides)
    caption = (
        f"Effective dilation over {dilation.images} test images, by the box around the filter's centre: small below "
        f"{low}x{low}, large above {high}x{high} {dilation.areas} pixels"
    )
    keys = ("layer", "dilation")
    rows = dilation_table.of_run(dilation.rows, keys)
    return rows, [dilation_table.layout(rows, keys, caption)]
