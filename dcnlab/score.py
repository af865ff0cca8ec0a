"""Score files of anyone's predictions: label images by mIoU, boxes by VOC's or COCO's rules."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from dcnlab.config import ConfigError, nearest

FORMATS = ("text", "markdown", "json")
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

        metric = MeanIoU(classes, ignore)
        for predicted, label in pairs:
            shown, true = (torch.from_numpy(read_label(path).astype("int64")) for path in (predicted, label))
            if shown.shape != true.shape:
                raise ValueError(f"{predicted} is {_size(shown)} pixels, its label {label} is {_size(true)}")
            try:
                metric.update(shown, true)
            except ValueError as error:
                where = label if str(error).startswith("label") else predicted
                raise ValueError(f"{where}: {error}; see --classes and --ignore") from error
    except ValueError as error:
        raise ConfigError(str(error)) from error
    each = {f"iou/{name}": iou for name, iou in zip(called, metric.per_class().tolist(), strict=True)}
    return {"miou": float(metric.compute()), "pixel_accuracy": float(metric.accuracy()), **each}


def _size(pixels: object) -> str:
    height, width = pixels.shape  # type: ignore[attr-defined]
    return f"{width}x{height}"


def _names(path: Path, classes: int) -> list[str]:
    from dcnlab.data.imagelist import read_lines

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
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() == ".png" and path.is_file():
            name = path.relative_to(folder).with_suffix("").as_posix()
            if name in found:
                raise ConfigError(f"{option} {folder} holds both {found[name].name} and {path.name} for one image")
            found[name] = path
    if not found:
        raise ConfigError(f"{option} {folder} holds no PNG")
    return found


def render(scores: Mapping[str, float], form: str) -> str:
    """Scores as people or programs read them.

    Args:
        scores: percent; of the whole under METRIC, of a class under METRIC/CLASS.
        form: text or markdown, two tables with two decimals, `-` for what is nan; json, full precision, null for nan.
    """
    if form == "json":
        return json.dumps({key: None if math.isnan(value) else value for key, value in scores.items()}, indent=2)
    whole = {key: value for key, value in scores.items() if "/" not in key}
    each: dict[str, dict[str, float]] = {}
    for key, value in scores.items():
        metric, slash, name = key.partition("/")
        if slash:
            each.setdefault(name, {})[metric] = value
    columns = list(dict.fromkeys(metric for row in each.values() for metric in row))
    blocks = [_grid(["metric", "%"], [[key, _cell(value)] for key, value in whole.items()], form)]
    if each:
        lines = [[name, *(_cell(row[metric]) for metric in columns)] for name, row in each.items()]
        blocks.append(_grid(["class", *(f"{metric} (%)" for metric in columns)], lines, form))
    return "\n\n".join(blocks)


def _cell(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def _grid(header: Sequence[str], lines: Sequence[Sequence[str]], form: str) -> str:
    from tabulate import tabulate

    style = {"text": "simple", "markdown": "pipe"}[form]
    aligned = ["left", *["right"] * (len(header) - 1)]
    return tabulate(lines, header, tablefmt=style, disable_numparse=True, colalign=aligned)
