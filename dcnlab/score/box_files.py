"""Scores files of detections by VOC's or COCO's rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from dcnlab.config.names import PROTOCOLS
from dcnlab.config.value_checks import choose
from dcnlab.io import json_lists
from dcnlab.io.errors import ConfigError, DataError

if TYPE_CHECKING:
    from dcnlab.io.box_table import BoxTable
    from dcnlab.metrics.boxes import Detections, GroundTruth

PICTURES = (".png", ".pdf", ".svg")
IOUS = (0.5, 0.7, 0.75)
"""Of a hit, under the VOC protocols."""


def detection(
    detections: Path,
    annotations: Path,
    protocol: str,
    split: str | None = None,
    backend: str = "faster",
    figure: Path | None = None,
) -> dict[str, float]:
    """Average precision of a file of detections.

    Args:
        detections: list in COCO's result form; `bbox` x, y, width, height in pixels, continuous, from 0. Against a
            VOC folder, `image_id` is an image's file name without its ending, and `category` the name of a class.
        annotations: COCO's JSON, or a VOC folder.
        protocol: coco; voc07, eleven points; or voc, area under the curve.
        split: of a VOC folder, `test` or `2007/test`; without one, all its annotations.
        backend: of the coco protocol: faster or pycocotools.
        figure: picture of precision over recall at IoU 0.5, to write.

    Returns:
        Percent. Under coco the twelve numbers, `ap70` and `ap/CLASS`; under voc07 and voc `ap50`, `ap70`, `ap75` and
        each per class, `ap50/CLASS`; nan where there is nothing to find.

    Raises:
        ConfigError: a file cannot be read, or an entry is not of its form.
    """
    choose("--protocol", protocol, PROTOCOLS)
    choose("--backend", backend, ("faster", "pycocotools"))
    if figure is not None and figure.suffix.lower() not in PICTURES:
        raise ConfigError(f"--figure {figure} must end in one of {', '.join(PICTURES)}")
    from dcnlab.metrics.voc_ap import voc_ap, voc_metrics

    try:
        truth, results = _read_boxes(detections, annotations, split)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if protocol == "coco":
        from dcnlab.metrics.coco_ap import coco_ap

        scores = coco_ap(truth, results, backend)
        curves = voc_ap(truth, results, "voc", (0.5,))[0.5] if figure else None
    else:
        by_iou = voc_ap(truth, results, protocol, IOUS)
        scores, curves = voc_metrics(by_iou), by_iou[0.5]
    if figure and curves:
        _draw(curves.classes, figure, "eleven points" if protocol.startswith("voc07") else "area under the curve")
    return scores


def _read_boxes(detections: Path, annotations: Path, split: str | None) -> tuple[GroundTruth, Detections]:
    """Read both files."""
    from dcnlab.io.box_table import BoxTable
    from dcnlab.metrics.boxes import Detections, GroundTruth

    class_of: dict[Any, int]
    if annotations.is_dir():
        from dcnlab.data.detection.voc import read_voc

        in_images = read_voc(annotations, split, images=False)
        truth = GroundTruth.of_annotations(in_images)
        image_of, class_of, key = _stems(in_images.files.tolist(), annotations), _index(truth.names), "category"
    else:
        truth = _read_coco(annotations, split)
        # JSON made by other tools may hold the numbers as text.
        image_of, class_of = (
            {str(name): position for name, position in known.items()} | known
            for known in (_index(truth.image_ids), _index(truth.class_ids))
        )
        key = "category_id"
    table = BoxTable(scored=True, class_key=key)
    _read_results(detections, table)
    try:
        return truth, Detections.of_table(table, image_of, class_of)
    except DataError as error:
        hint = " (against a VOC folder, category is the class's name)" if " has no category;" in str(error) else ""
        raise DataError(f"{detections}: {error}{hint}") from error


def _read_coco(path: Path, split: str | None) -> GroundTruth:
    """Read ground truth from COCO's JSON."""
    from dcnlab.io.box_table import BoxTable
    from dcnlab.metrics.boxes import GroundTruth

    if split is not None:
        raise ConfigError(f"--split {split} goes with a VOC folder; --annotations {path} is none")
    table = BoxTable()
    content = _json("--annotations", path, lambda: json_lists.load_object(path, {"annotations": table.add}))
    if not isinstance(content, dict):
        raise ConfigError(f"--annotations {path} holds no object of images, annotations and categories")
    try:
        return GroundTruth.of_table(content, table)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _read_results(path: Path, table: BoxTable) -> None:
    """Add the entries of a file of detections to a table."""
    if not _json("--detections", path, lambda: json_lists.load_list(path, table.add)):
        raise ConfigError(f"--detections {path} holds no list; COCO's result form is a list of objects")


def _json(option: str, path: Path, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except OSError as error:
        raise ConfigError(f"{option} {path} cannot be read: {error.strerror}") from error
    except DataError as error:
        raise ConfigError(f"{option} {path} is not JSON: {error}") from error


def _index(names: Sequence[Any]) -> dict[Any, int]:
    return {name: position for position, name in enumerate(names)}


def _stems(files: Sequence[str], root: Path) -> dict[Any, int]:
    """Position of each image by its file's name without ending."""
    stems = [PurePosixPath(name).stem for name in files]
    position_of = _index(stems)
    if len(position_of) < len(stems):
        twice = next(stem for position, stem in enumerate(stems) if position_of[stem] != position)
        raise ConfigError(f"--annotations {root} has two images called {twice}; score one of the folders alone")
    return position_of


def _draw(curves: Mapping[str, Any], path: Path, rule: str) -> None:
    from dcnlab.metrics.precision_recall import draw

    path.parent.mkdir(parents=True, exist_ok=True)
    draw(curves, path, f"Precision and recall at IoU 0.5; AP by {rule}")
