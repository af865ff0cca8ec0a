"""The paper's own figures, and which of them stand beside which runs of ours."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from dcnlab.config.names import DATA_SETS, networks_with
from dcnlab.io.yaml_file import read_yaml

LAYERS, DILATION, POOLING = "model.deform_layers", "model.dilation", "model.deform_pooling"
VARIED = {"table1": (LAYERS,), "table3": (LAYERS, DILATION, POOLING), "table5": (LAYERS, POOLING)}
"""The settings that tell the rows of a table apart; runs of one system share all others but the seed."""
BACKBONE = "resnet101"
"""Of tables 1 to 4."""
DEFORM_LAYERS = 3
"""Deformable layers of the paper's deformable networks, outside table 1."""
POOLING_MODELS = networks_with("deform_pooling")
"""Networks that pool RoIs."""

Label = int | str

_SYSTEMS = {
    "deeplab_voc": "DeepLab",
    "deeplab_cityscapes": "DeepLab",
    "class_aware_rpn": "class-aware RPN",
    "faster_rcnn": "Faster R-CNN",
    "rfcn": "R-FCN",
}
_SPLITS = {
    "VOC 2012 val": ("voc", "2012/val"),
    "Cityscapes val": ("cityscapes", "val"),
    "VOC 2007 test": ("voc", "2007/test"),
}
"""Which of our data sets and splits are the paper's; nobody but the server can score COCO's test-dev."""
_DILATIONS = (2, 4, 6, 8)
_CONV, _POOL, _BOTH = "deformable convolution", "deformable RoI pooling", "both"


@dataclass(frozen=True)
class Counterpart:
    """What the paper has beside one system of ours."""

    title: str
    """Network, backbone and data."""
    differs: tuple[str, ...]
    """What of it is not as ours: data, backbone, metric, test."""
    rows: dict[Label, dict[str, float]]
    """Row label to metric to percent."""
    confirmed: bool

    def has(self, metric: str) -> bool:
        """Whether any row states the metric."""
        return any(metric in row for row in self.rows.values())


@functools.cache
def read(table: str) -> dict[str, Any]:
    """A table of the packaged transcription, such as `table1`."""
    return read_yaml(Path(__file__).with_name("published.yaml"))[table]


def dilation(settings: Mapping[str, Any]) -> int:
    """The dilation of the last stage, where null is what the task takes."""
    return settings[DILATION] or own_dilation(settings)


def own_dilation(settings: Mapping[str, Any]) -> int:
    """The dilation that the last stage has where none is stated."""
    return 1 if settings["task"] == "classification" else 2


def labels(table: str, pools: bool = True) -> list[Label]:
    """The rows of a table, the one that others are compared with first.

    Args:
        table: table1, table3 or table5.
        pools: whether the network pools RoIs, which two rows of table 3 are about.
    """
    if table == "table1":
        return [row["layers"] for row in read(table)["rows"]]
    if table == "table3":
        return [*(f"dilation {rate}" for rate in _DILATIONS), _CONV, *((_POOL, _BOTH) if pools else ())]
    return ["plain", "deformable"]


def settings_of(table: str, row: Label, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a row of a table, given those of another row of the same system."""
    if table == "table1":
        return {**settings, LAYERS: row}
    if table == "table5":
        deformable = row == "deformable"
        pooling = deformable and settings["model.name"] in POOLING_MODELS
        return {**settings, LAYERS: DEFORM_LAYERS * deformable, POOLING: pooling}
    rate = next((rate for rate in _DILATIONS if row == f"dilation {rate}"), None)
    return {**settings, LAYERS: DEFORM_LAYERS * (row in (_CONV, _BOTH)), POOLING: row in (_POOL, _BOTH), DILATION: rate}


def label(table: str, settings: Mapping[str, Any]) -> Label | None:
    """The row of a table that a run is of, or None."""
    layers, pooling = settings[LAYERS], settings[POOLING]
    if (layers or pooling) and (settings["model.deform_kind"] != "deformable" or settings["model.modulated"]):
        return None
    if settings["model.spatial_transformer"]:
        return None
    if table == "table1":
        return layers if not pooling and layers in labels(table) else None
    if table == "table5":
        if not layers and not pooling:
            return "plain"
        whole = layers == DEFORM_LAYERS and pooling == (settings["model.name"] in POOLING_MODELS)
        return "deformable" if whole else None
    if not layers and not pooling:
        return f"dilation {dilation(settings)}" if dilation(settings) in _DILATIONS else None
    if dilation(settings) != own_dilation(settings) or layers not in (0, DEFORM_LAYERS):
        return None
    return _BOTH if layers and pooling else _CONV if layers else _POOL


def metrics(table: str) -> list[str]:
    """What a table states of its systems."""
    return read(table)["columns"] if table == "table5" else ["miou", "ap50", "ap70"]


def is_none(settings: Mapping[str, Any], swept: Sequence[str]) -> bool:
    """Whether a row is the one called `none`: nothing deformable, and, where dilation is swept, the task's own.

    Args:
        settings: of the row.
        swept: what tells its table's rows apart.
    """
    if settings[LAYERS] or settings[POOLING] or settings["model.spatial_transformer"]:
        return False
    return DILATION not in swept or dilation(settings) == own_dilation(settings)


def table_of(swept: Sequence[str]) -> str | None:
    """The paper's table that a sweep over these settings repeats, or None."""
    if DILATION in swept or POOLING in swept:
        return "table3"
    return "table1" if LAYERS in swept else None


def counterpart(table: str, settings: Mapping[str, Any]) -> Counterpart | None:
    """What of a table stands beside runs of these settings; None where the paper has no such network.

    Args:
        table: table1, table3 or table5.
        settings: of one of the runs, as dotted keys.
    """
    found = _from_table5(settings) if table == "table5" else _column(table, settings)
    if found is None:
        return None
    name, split = _SPLITS.get(found.data, ("", ""))
    protocol = settings["data.protocol"] or DATA_SETS[settings["data.name"]].protocol
    equal = {
        "data": settings["data.name"] == name and settings["data.test"] in (split, [split]),
        "backbone": settings["model.backbone.name"] == found.backbone,
        "metric": settings["task"] != "detection" or protocol == ("coco" if table == "table5" else "voc07"),
        "test": _test(settings) == found.test,
    }
    title = ", ".join(filter(None, (found.system, found.backbone, found.data, found.test)))
    differs = tuple(key for key, same in equal.items() if not same)
    return Counterpart(title, differs, found.rows, read(table)["status"] == "confirmed")


class _Found(NamedTuple):
    system: str
    backbone: str
    data: str
    test: str
    rows: dict[Label, dict[str, float]]


def _column(table: str, settings: Mapping[str, Any]) -> _Found | None:
    key = settings["model.name"]
    if key == "deeplab":
        key = "deeplab_cityscapes" if settings["data.name"] == "cityscapes" else "deeplab_voc"
    if key not in _SYSTEMS:
        return None
    named = zip(labels(table), read(table)["rows"], strict=True)
    rows = {name: row[key] for name, row in named if key in row}
    return _Found(_SYSTEMS[key], BACKBONE, read("table1")["data"][key], "", rows)


def _from_table5(settings: Mapping[str, Any]) -> _Found | None:
    """Of the same network; of the same backbone and test where the paper has that."""
    table = read("table5")
    akin = [row for row in table["rows"] if row["model"] == settings["model.name"]]
    if not akin:
        return None
    ours = (settings["model.backbone.name"], _test(settings))
    row = next((row for row in akin if (row["backbone"], row.get("test", "")) == ours), akin[0])
    rows: dict[Label, dict[str, float]] = {
        name: dict(zip(table["columns"], row[str(name)], strict=True)) for name in labels("table5")
    }
    return _Found(_SYSTEMS[row["model"]], row["backbone"], "COCO test-dev", row.get("test", ""), rows)


def _test(settings: Mapping[str, Any]) -> str:
    """How a detector was tested, in table 5's words."""
    words = ["multi_scale"] if settings["test.shorter_sides"] else []
    words += ["iterative_box_average"] if settings["test.box_rounds"] else []
    return " + ".join(words)


def whole_table1() -> tuple[str, list[str], list[list[str]]]:
    """Table 1 for orientation: caption, header and rows, with differences to the first."""
    rows = read("table1")["rows"]
    first = rows[0]
    names = {"miou": "mIoU", "ap50": "AP50", "ap70": "AP70"}
    where = {"deeplab_voc": ", VOC", "deeplab_cityscapes": ", Cityscapes"}
    columns = [(system, metric) for system in _SYSTEMS for metric in first[system]]
    header = ["deform_layers"]
    header += [f"{_SYSTEMS[system]}{where.get(system, '')}: {names[metric]}" for system, metric in columns]
    lines = []
    for row in rows:
        line = [str(row["layers"])]
        for system, metric in columns:
            value = row[system][metric]
            line.append(f"{value:.1f}" if row is first else f"{value:.1f} ({value - first[system][metric]:+.1f})")
        lines.append(line)
    caption = "For orientation, another data set: the paper's table 1, ResNet-101 on VOC and Cityscapes, percent"
    return caption, header, lines
