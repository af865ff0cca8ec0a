"""ReadBy: what reads a config key, as the metadata of its field."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

OWN = "package.module:Class"
"""Stands for every class of the user's own in the place of a name."""
FILES = ("own", "imagefolder", "voc", "coco", "yolo", "cityscapes", "camvid", "imagelist")
"""Data sets that are read from a folder."""
DENSE = ("segmentation", "detection")
"""Tasks whose networks keep a map of the image."""
LABELLED = ("own", "voc", "cityscapes", "camvid", "imagelist")
"""Data sets of segmentation."""
BOXED = ("own", "voc", "coco", "yolo")
"""Data sets of detection."""
POOLING = ("faster_rcnn", "faster_rcnn_fpn", "rfcn")
"""Networks that pool RoIs."""
REDUCING = ("deeplab", "class_aware_rpn", "faster_rcnn", "rfcn")
"""Networks with a 1x1 convolution on res5."""
WARMED = ("step", "cosine", "poly")
"""Values of `optim.schedule` that a warm-up may precede."""

_METADATA = "read_by"


@dataclass(frozen=True)
class ReadBy:
    """The conditions under which a key is read; all of them must hold, and an empty one always does."""

    tasks: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    """Values of `data.name`; a class of the user's own may read any key."""
    networks: tuple[str, ...] = ()
    """Values of `model.name`, likewise."""
    backbones: tuple[str, ...] = ()
    """Values of `model.backbone.name`, likewise."""
    when: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    """Values of other keys, by dotted key."""
    harmless: tuple[Any, ...] = ()
    """Values that ask for nothing, and so are not missed where nothing reads them."""
    training_only: bool = False
    """Whether only a training reads it, so that it cannot change how a trained network is scored."""

    def by_key(self) -> dict[str, tuple[Any, ...]]:
        """The values that other keys must have, by dotted key."""
        conditions = {
            "task": self.tasks,
            "data.name": self.data,
            "model.name": self.networks,
            "model.backbone.name": self.backbones,
            **self.when,
        }
        return {key: values for key, values in conditions.items() if values}


def only(
    default: Any = dataclasses.MISSING,
    *,
    factory: Callable[[], Any] | None = None,
    tasks: tuple[str, ...] = (),
    data: tuple[str, ...] = (),
    networks: tuple[str, ...] = (),
    backbones: tuple[str, ...] = (),
    when: Mapping[str, tuple[Any, ...]] | None = None,
    harmless: tuple[Any, ...] = (),
    training_only: bool = False,
) -> Any:
    """A dataclass field with its default, and with what reads it; see `ReadBy`."""
    metadata = {_METADATA: ReadBy(tasks, data, networks, backbones, when or {}, harmless, training_only)}
    if factory is not None:
        return dataclasses.field(default_factory=factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def of_field(field: dataclasses.Field[Any]) -> ReadBy:
    """What reads a field; one without metadata is always read."""
    return field.metadata.get(_METADATA, ReadBy())
