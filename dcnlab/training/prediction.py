"""Predictions of a trained network for images, in the pixels of each image."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from dcnlab.config import outside
from dcnlab.io.errors import ConfigError, DataError
from dcnlab.models.multi_scale import detect
from dcnlab.tasks.box_truth import scaled_boxes
from dcnlab.tasks.segmentation import segment
from dcnlab.tasks.task import Task
from dcnlab.training.loading import load
from dcnlab.training.prediction_input import Input, InputImage, Preparation
from dcnlab.training.prediction_types import Boxes, LabelMap, Prediction, Probabilities

READ_AHEAD = 4
"""Images that are read while the network computes."""
BATCH = 16
"""Images of one size that a classifier takes at a time."""


def predict(
    run: str | os.PathLike[str] | Task,
    images: InputImage | Iterable[InputImage],
    allow: Sequence[outside.Allowed] | outside.Allowed = (),
    device: str | torch.device | None = None,
) -> Iterator[Prediction]:
    """Predict for images, one after the other, as the run's test does: its sizes, scales, mirroring and thresholds.

    Args:
        run: a run folder, or what `dcnlab.load` returned.
        images: any number, read as they are needed, or one. A path; a PIL image; an array (H, W, 3) or (H, W), or a
            tensor (3, H, W) or (1, H, W), of uint8, or of floats from 0 to 1.
        allow: see `dcnlab.load`.
        device: see `dcnlab.load`; None leaves a loaded network where it is.

    Yields:
        `Boxes`, `LabelMap` or `Probabilities`, in the order of the images.

    Raises:
        ConfigError: see `dcnlab.load`.
        DataError: an image cannot be read; one line that names it.
    """
    if not isinstance(run, Task):
        run = load(run, allow=allow, device=device)
    elif device is not None:
        run = run.to(device)
    alone = isinstance(images, str | os.PathLike | Image.Image) or hasattr(images, "shape")
    return predictions(run, [images] if alone else images)  # type: ignore[arg-type, list-item]


def predictions(
    task: Task, images: Iterable[InputImage], leave_out: Callable[[str, DataError], None] | None = None
) -> Iterator[Prediction]:
    """Predict with a loaded network; memory holds the images at hand and a few that are read ahead.

    Args:
        task: as from `load`.
        images: see `predict`.
        leave_out: takes the name of an image that cannot be read, and the error; None raises it.

    Raises:
        ConfigError: the network was not built from a config.
    """
    if task.config is None:
        raise ConfigError("predict takes a network that dcnlab built: a run folder, or what dcnlab.load returns")
    prepare = Preparation(task.config)
    device = next(task.parameters()).device
    compute = _COMPUTE[task.config.task]
    ready = _readable(_read_ahead(prepare, images), leave_out)
    for batch in _batches(ready, BATCH if task.config.task == "classification" else 1):
        with torch.no_grad():
            batch_predictions = compute(task, batch, [item.tensor.to(device) for item in batch])
        yield from batch_predictions


def _read_ahead(prepare: Preparation, images: Iterable[InputImage]) -> Iterator[tuple[str, Input | DataError]]:
    """Images prepared in a thread, a few ahead of the network."""

    def read(number: int, image: InputImage) -> tuple[str, Input | DataError]:
        name = prepare.name(number, image)
        try:
            return name, prepare(name, image)
        except DataError as error:
            return name, error

    with ThreadPoolExecutor(1) as pool:
        waiting: deque[Future[tuple[str, Input | DataError]]] = deque()
        for number, image in enumerate(images):
            waiting.append(pool.submit(read, number, image))
            if len(waiting) > READ_AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _readable(
    items: Iterator[tuple[str, Input | DataError]], leave_out: Callable[[str, DataError], None] | None
) -> Iterator[Input]:
    for name, item in items:
        if not isinstance(item, DataError):
            yield item
        elif leave_out is None:
            raise item
        else:
            leave_out(name, item)


def _batches(items: Iterator[Input], size: int) -> Iterator[list[Input]]:
    while batch := list(islice(items, size)):
        yield batch


def _probabilities(task: Task, batch: list[Input], tensors: list[Tensor]) -> list[Prediction]:
    rows = task.model(torch.stack(tensors)).float().softmax(1).cpu()
    return [Probabilities(item.name, item.image, task.classes, row) for item, row in zip(batch, rows, strict=True)]


def _label_maps(task: Task, batch: list[Input], tensors: list[Tensor]) -> list[Prediction]:
    label_maps: list[Prediction] = []
    for item, tensor in zip(batch, tensors, strict=True):
        size, test = (item.image.height, item.image.width), task.testing
        labels = segment(task.model, tensor[None], size, test.scales, test.flip)[0].to(torch.uint8).cpu()
        label_maps.append(LabelMap(item.name, item.image, task.classes, labels))
    return label_maps


def _boxes(task: Task, batch: list[Input], tensors: list[Tensor]) -> list[Prediction]:
    boxes_of_images: list[Prediction] = []
    for item, tensor in zip(batch, tensors, strict=True):
        test, longer_sides = task.testing, getattr(task, "longer_sides", None)
        detections = detect(task.model, tensor, test.shorter_sides, longer_sides, test.flip, test.box_rounds)
        detections = {key: values.cpu() for key, values in detections.items()}
        boxes = scaled_boxes(detections["boxes"], tensor.shape[-2:], (item.image.height, item.image.width))
        boxes_of_images.append(
            Boxes(item.name, item.image, task.classes, boxes, detections["labels"], detections["scores"].float())
        )
    return boxes_of_images


_COMPUTE: dict[str, Callable[[Any, list[Input], list[Tensor]], list[Prediction]]] = {
    "classification": _probabilities,
    "segmentation": _label_maps,
    "detection": _boxes,
}
