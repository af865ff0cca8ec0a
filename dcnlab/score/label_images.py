"""Scores folders of label images by mIoU."""

from __future__ import annotations

import logging
from pathlib import Path

from dcnlab.io.errors import ConfigError
from dcnlab.io.folders import files_below
from dcnlab.io.text import nearest

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
        names: text file of the classes' names, a line each; None names them by their numbers.

    Returns:
        `miou`, `pixel_accuracy` and `iou/CLASS`, percent; nan for a class that no image holds.

    Raises:
        ConfigError: a file is missing or has no partner, cannot be read, or holds a value that is not a class.
    """
    if not 1 <= classes <= MOST_CLASSES:
        raise ConfigError(f"--classes is {classes}; it must be between 1 and {MOST_CLASSES}")
    try:
        class_names = [str(label) for label in range(classes)] if names is None else _names(names, classes)
        pairs = _pairs(predictions, labels)
        import torch

        from dcnlab.data.labels import read_label
        from dcnlab.metrics.miou import MeanIoU

        metric, some_ignored = MeanIoU(classes, ignore), False
        for predicted, label in pairs:
            pixels, true = (torch.from_numpy(read_label(path).astype("int64")) for path in (predicted, label))
            if pixels.shape != true.shape:
                raise ValueError(f"{predicted} is {_size(pixels)} pixels, its label {label} is {_size(true)}")
            some_ignored = some_ignored or bool((true == ignore).any())
            try:
                metric.update(pixels, true)
            except ValueError as error:
                where = label if str(error).startswith("label") else predicted
                raise ValueError(f"{where}: {error}; see --classes and --ignore") from error
    except ValueError as error:
        raise ConfigError(str(error)) from error
    used = metric.total().sum(1).nonzero().flatten().tolist()
    if some_ignored and len(used) == 1 < classes:
        logging.getLogger("dcnlab").warning(
            f"warning: next to {used[0]} the only value in {labels} is {ignore}, which --ignore leaves out; "
            f"if that is a class, write its pixels as one of 0 to {classes - 1}"
        )
    each = {f"iou/{name}": iou for name, iou in zip(class_names, metric.per_class().tolist(), strict=True)}
    return {"miou": float(metric.compute()), "pixel_accuracy": float(metric.accuracy()), **each}


def _size(pixels: object) -> str:
    height, width = pixels.shape  # type: ignore[attr-defined]
    return f"{width}x{height}"


def _names(path: Path, classes: int) -> list[str]:
    from dcnlab.data.image_list import read_lines

    names = [line for _, line in read_lines(path)]
    if len(names) != classes:
        raise ConfigError(f"--names {path} has {len(names)} names, --classes is {classes}; they must be equal")
    for position, name in enumerate(names):
        if name in names[:position]:
            raise ConfigError(f"--names {path} has {name!r} twice; names must differ")
    return names


def _pairs(predictions: Path, labels: Path) -> list[tuple[Path, Path]]:
    """Prediction and label of each image, sorted by name."""
    predicted, labelled = _images(predictions, "--predictions"), _images(labels, "--labels")
    for images, folder, others, other_folder in (
        (labelled, labels, predicted, predictions),
        (predicted, predictions, labelled, labels),
    ):
        alone = sorted(images.keys() - others.keys())
        if alone:
            near = nearest(alone[0], others.keys() - images.keys())
            hint = f"; nearest there: {others[near]}" if near else ""
            more = f" (nor for {len(alone) - 1} more)" if len(alone) > 1 else ""
            raise ConfigError(f"{images[alone[0]]} of {folder} has no file of its name in {other_folder}{more}{hint}")
    return [(predicted[name], labelled[name]) for name in sorted(predicted)]


def _images(folder: Path, option: str) -> dict[str, Path]:
    """The PNGs of a folder and its sub-folders, by path without ending."""
    if not folder.is_dir():
        raise ConfigError(f"{option} {folder} is not a folder")
    images: dict[str, Path] = {}
    for path in map(Path, files_below(folder, (".png",))):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in images:
            raise ConfigError(f"{option} {folder} holds both {images[name].name} and {path.name} for one image")
        images[name] = path
    if not images:
        raise ConfigError(f"{option} {folder} holds no PNG")
    return images
