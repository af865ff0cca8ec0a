"""Writes a run's confusion.json and its picture."""

from __future__ import annotations

from typing import Any

from PIL.Image import Image

from dcnlab.metrics import confusion
from dcnlab.tasks import confusion_picture
from dcnlab.training.run_folder import RunFolder


def write(task: Any, folder: RunFolder) -> Image | None:
    """Write which class was found as which in the test that a task was just scored on.

    Args:
        task: with `confusion`, or of a kind without one.
        folder: of the run.

    Returns:
        The picture; None without one.
    """
    counted = getattr(task, "confusion", None)
    if counted is None:
        return None
    confusion.write(folder.confusion, counted)
    picture = confusion_picture.draw(counted)
    if picture is not None:
        folder.pictures.mkdir(exist_ok=True)
        picture.save(folder.confusion_picture)
    return picture
