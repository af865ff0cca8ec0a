"""DigitsDataModule: three splits of scenes made of the embedded digits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from dcnlab.data.digits.datasets import DigitClassification, DigitDetection, DigitSegmentation
from dcnlab.data.digits.geometry import Geometry
from dcnlab.data.digits.mnist_reader import read_digits
from dcnlab.data.digits.scenes import DigitPart, DigitScenes
from dcnlab.data.folds import Fold, all_names, stratified, validated_on
from dcnlab.data.module import SplitsDataModule, collate_lists
from dcnlab.io.errors import DataError


class DigitsDataModule(SplitsDataModule):
    """The embedded digits; every training epoch shows its digits in new poses.

    The scenes do not follow the seed, so that runs with different seeds train on and are scored on the same ones.

    Args:
        geometry: how digits are laid on the canvas.
        train: split names, of train, val and test.
        val: likewise; None scores none during training.
        test: likewise.
        classes: digits to classify, in the order of their labels; None takes all ten.
        train_length: scenes in an epoch; None is one a digit.
        test_length: scenes to score; None is one a digit.
        batch_size: scenes a rank loads at a time.
        workers: loader processes.
        seed: of the training order.
        task: classification, of scenes of one digit, segmentation or detection.
        digits: maximum number of digits in a scene, for tasks other than classification.
        fold: the test split, cut from the digits of all three; None takes the splits as they are.
    """

    def __init__(
        self,
        geometry: Geometry | None = None,
        train: str = "train",
        val: str | None = "val",
        test: str = "test",
        classes: Sequence[str] | None = None,
        train_length: int | None = None,
        test_length: int | None = None,
        batch_size: int = 64,
        workers: int = 0,
        seed: int = 0,
        task: str = "classification",
        digits: int = 4,
        fold: Fold | None = None,
    ) -> None:
        data_sets: dict[str, Callable[[DigitScenes], Dataset[Any]]] = {
            "classification": DigitClassification,
            "segmentation": DigitSegmentation,
            "detection": DigitDetection,
        }
        if task not in data_sets:
            raise DataError(f"task is {task!r}; the embedded digits are made for {', '.join(data_sets)}")
        make, max_digits = data_sets[task], 1 if task == "classification" else digits
        parts = {} if fold is None else _cut(fold, train, val, test)

        def scenes(split: str, length: int | None, role: str) -> DigitScenes:
            name = split if fold is None else role
            return DigitScenes(name, geometry, length, max_digits, classes, part=parts.get(role))

        training = scenes(train, train_length, "train")
        super().__init__(
            make(training),
            None if val is None else make(scenes(val, None, "val")),
            make(scenes(test, test_length, "test")),
            ["background", *training.classes] if task == "segmentation" else training.classes,
            batch_size,
            workers,
            seed,
            collate_lists if task == "detection" else None,
        )


def _cut(fold: Fold, train: str, val: str | None, test: str) -> dict[str, DigitPart]:
    """The digits of train, val and test together, cut class by class."""
    inks, digits = zip(*(read_digits(split) for split in all_names(train, val, test)), strict=True)
    joined, labels = np.concatenate(inks), np.concatenate(digits)
    parts = fold.parts(labels, stratified, validated_on(val, test))
    chosen = {"train": parts.train, "val": parts.val, "test": parts.test}
    return {role: DigitPart(fold, joined[at], labels[at]) for role, at in chosen.items() if at is not None}
