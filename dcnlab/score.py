"""Scores files of anyone's predictions: label images by mIoU, boxes by VOC's or COCO's rules."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from dcnlab.config.names import PROTOCOLS
from dcnlab.config.validation import choose
from dcnlab.io import json_lists
from dcnlab.io.errors import ConfigError, DataError
from dcnlab.io.folders import files_below
from dcnlab.io.text import markdown, nearest, visible

if TYPE_CHECKING:
    from dcnlab.io.box_table import BoxTable
    from dcnlab.metrics.boxes import Detections, GroundTruth

FORMATS = ("text", "markdown", "json")
PICTURES = (".png", ".pdf", ".svg")
_NAMED = 20
"""Classes that the means leave out and that are named; of more there is the number alone."""
IOUS = (0.5, 0.7, 0.75)
"""Of a hit, under the VOC protocols."""
MOST_CLASSES = 4096
"""Of a segmentation; its confusion matrix takes 128 MiB."""


def segmentation(
    predictions: Path, labels: Path, classes: int, ignore: int = 255, names: Path | None = None
) -> dict[str, float]:
    """Mean IoU of a folder of label images against another, by one confusion matrix of all pixels.

    Args:
        predictions: folder of PNGs of one channel, grey or palette, whose values are classes.
        labels: folder of such PNGs under the same names; sub-folders count as part of the name.
        classes: number of classes.
        ignore: the label of pixels that do not count.
        names: text file of the classes' names, a line each; without one they are called by their numbers.

    Returns:
        `miou`, `pixel_accuracy` and `iou/CLASS`, percent; nan for a class that is in no image.

    Raises:
        ConfigError: a file is missing or left over, cannot be read, or holds a value that is no class.
    """
    if not 1 <= classes <= MOST_CLASSES:
        raise ConfigError(f"--classes is {classes}; it must be between 1 and {MOST_CLASSES}")
    try:
        called = [str(at) for at in range(classes)] if names is None else _names(names, classes)
        pairs = _pairs(predictions, labels)
        import torch

        from dcnlab.data.labels import read_label
        from dcnlab.metrics.miou import MeanIoU

        metric, leaves_out = MeanIoU(classes, ignore), False
        for predicted, label in pairs:
            shown, true = (torch.from_numpy(read_label(path).astype("int64")) for path in (predicted, label))
            if shown.shape != true.shape:
                raise ValueError(f"{predicted} is {_size(shown)} pixels, its label {label} is {_size(true)}")
            leaves_out = leaves_out or bool((true == ignore).any())
            try:
                metric.update(shown, true)
            except ValueError as error:
                where = label if str(error).startswith("label") else predicted
                raise ValueError(f"{where}: {error}; see --classes and --ignore") from error
    except ValueError as error:
        raise ConfigError(str(error)) from error
    used = metric.total().sum(1).nonzero().flatten().tolist()
    if leaves_out and len(used) == 1 < classes:
        logging.getLogger("dcnlab").warning(
            f"warning: next to {used[0]} the only value in {labels} is {ignore}, which --ignore leaves out; "
            f"if that is a class, write its pixels as one of 0 to {classes - 1}"
        )
    each = {f"iou/{name}": iou for name, iou in zip(called, metric.per_class().tolist(), strict=True)}
    return {"miou": float(metric.compute()), "pixel_accuracy": float(metric.accuracy()), **each}


def _size(pixels: object) -> str:
    height, width = pixels.shape  # type: ignore[attr-defined]
    return f"{width}x{height}"


def _names(path: Path, classes: int) -> list[str]:
    from dcnlab.data.image_list import read_lines

    names = [line for _, line in read_lines(path)]
    if len(names) != classes:
        raise ConfigError(f"--names {path} has {len(names)} names, --classes is {classes}; they must be equal")
    for at, name in enumerate(names):
        if name in names[:at]:
            raise ConfigError(f"--names {path} has {name!r} twice; names must differ")
    return names


def _pairs(predictions: Path, labels: Path) -> list[tuple[Path, Path]]:
    """Prediction and label of each image, sorted by name."""
    found, wanted = _images(predictions, "--predictions"), _images(labels, "--labels")
    for missing, there, have, lack in ((wanted, found, labels, predictions), (found, wanted, predictions, labels)):
        alone = sorted(missing.keys() - there.keys())
        if alone:
            near = nearest(alone[0], there.keys() - missing.keys())
            hint = f"; nearest there: {there[near]}" if near else ""
            more = f" (nor for {len(alone) - 1} more)" if len(alone) > 1 else ""
            raise ConfigError(f"{missing[alone[0]]} of {have} has no file of its name in {lack}{more}{hint}")
    return [(found[name], wanted[name]) for name in sorted(found)]


def _images(folder: Path, option: str) -> dict[str, Path]:
    """The PNGs of a folder and its sub-folders, by path without ending."""
    if not folder.is_dir():
        raise ConfigError(f"{option} {folder} is not a folder")
    found: dict[str, Path] = {}
    for path in map(Path, files_below(folder, (".png",))):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise ConfigError(f"{option} {folder} holds both {found[name].name} and {path.name} for one image")
        found[name] = path
    if not found:
        raise ConfigError(f"{option} {folder} holds no PNG")
    return found


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
        truth, found = _boxes(detections, annotations, split)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if protocol == "coco":
        from dcnlab.metrics.coco_ap import coco_ap

        scores = coco_ap(truth, found, backend)
        curves = voc_ap(truth, found, "voc", (0.5,))[0.5] if figure else None
    else:
        by_iou = voc_ap(truth, found, protocol, IOUS)
        scores, curves = voc_metrics(by_iou), by_iou[0.5]
    if figure and curves:
        _draw(curves.classes, figure, "eleven points" if protocol == "voc07" else "area under the curve")
    return scores


def _boxes(detections: Path, annotations: Path, split: str | None) -> tuple[GroundTruth, Detections]:
    """Read both files."""
    from dcnlab.io.box_table import BoxTable
    from dcnlab.metrics.boxes import Detections, GroundTruth

    class_of: dict[Any, int]
    if annotations.is_dir():
        from dcnlab.data.detection.voc import read_voc

        in_images = read_voc(annotations, split, images=False)
        truth = GroundTruth.of_annotations(in_images)
        image_of, class_of, key = _stems(in_images.files, annotations), _index(truth.names), "category"
    else:
        truth = _coco(annotations, split)
        # JSON made by other tools may hold the numbers as text.
        image_of, class_of = (
            {str(name): at for name, at in known.items()} | known
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


def _coco(path: Path, split: str | None) -> GroundTruth:
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
        if not isinstance(content.get("annotations"), list):
            raise DataError("there is no list of objects 'annotations'; COCO's form has images and categories too")
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
    return {name: at for at, name in enumerate(names)}


def _stems(files: Sequence[str], root: Path) -> dict[Any, int]:
    """Position of each image by its file's name without ending."""
    stems = [PurePosixPath(name).stem for name in files]
    position_of = _index(stems)
    if len(position_of) < len(stems):
        twice = next(stem for at, stem in enumerate(stems) if position_of[stem] != at)
        raise ConfigError(f"--annotations {root} has two images called {twice}; score one of the folders alone")
    return position_of


def _draw(curves: Mapping[str, Any], path: Path, rule: str) -> None:
    from dcnlab.metrics.precision_recall import draw

    path.parent.mkdir(parents=True, exist_ok=True)
    draw(curves, path, f"Precision and recall at IoU 0.5; AP by {rule}")


def render(scores: Mapping[str, float], form: str) -> str:
    """Scores as people or programs read them.

    Args:
        scores: percent; of the whole under METRIC, of a class under METRIC/CLASS.
        form: text or markdown, two tables with two decimals, `-` for what is nan; json, full precision, null for nan.
            Where means leave classes out, a line between the tables says which, in json the key `mean_over`.
    """
    known, left_out = _covered(scores)
    if form == "json":
        content: dict[str, Any] = {key: None if math.isnan(value) else value for key, value in scores.items()}
        content |= {"mean_over": {"classes": known, "left_out": left_out}} if left_out else {}
        return json.dumps(content, indent=2)
    whole = {key: value for key, value in scores.items() if "/" not in key}
    each: dict[str, dict[str, float]] = {}
    for key, value in scores.items():
        metric, slash, name = key.partition("/")
        if slash:
            each.setdefault(name, {})[metric] = value
    columns = list(dict.fromkeys(metric for row in each.values() for metric in row))
    blocks = [_grid(["metric", "%"], [[key, _cell(value)] for key, value in whole.items()], form)]
    if left_out:
        said = _said(known, left_out, "iou" in columns)
        blocks.append(markdown(said) if form == "markdown" else visible(said))
    if each:
        lines = [[name, *(_cell(row[metric]) for metric in columns)] for name, row in each.items()]
        blocks.append(_grid(["class", *(f"{metric} (%)" for metric in columns)], lines, form))
    return "\n\n".join(blocks)


def _covered(scores: Mapping[str, float]) -> tuple[list[str], list[str]]:
    """Classes that the means are over, and those that they leave out because they have no score."""
    each: dict[str, bool] = {}
    for key, value in scores.items():
        _, slash, name = key.partition("/")
        if slash:
            each[name] = each.get(name, False) or not math.isnan(value)
    return [name for name, known in each.items() if known], [name for name, known in each.items() if not known]


def _said(known: Sequence[str], left_out: Sequence[str], pixels: bool) -> str:
    """Say what the means cover; of many classes left out, the first ones and how many more."""
    more = f" and {len(left_out) - _NAMED} more" if len(left_out) > _NAMED else ""
    where = "in neither labels nor predictions" if pixels else "without an object to find"
    names = f"{', '.join(left_out[:_NAMED])}{more}"
    if not known:
        return f"There is no mean: all {len(left_out)} classes are {where}."
    return f"Means are over {len(known)} of {len(known) + len(left_out)} classes; {where}: {names}."


def _cell(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def _grid(header: Sequence[str], lines: Sequence[Sequence[str]], form: str) -> str:
    from tabulate import tabulate

    style, safe = {"text": ("simple", visible), "markdown": ("pipe", markdown)}[form]
    aligned = ["left", *["right"] * (len(header) - 1)]
    header, lines = [safe(name) for name in header], [[safe(cell) for cell in line] for line in lines]
    return tabulate(lines, header, tablefmt=style, disable_numparse=True, colalign=aligned)
