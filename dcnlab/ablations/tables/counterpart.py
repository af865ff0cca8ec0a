"""The paper's values for rows of ours, and how its system differs from ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from dcnlab.ablations.tables import paper, paper_rows

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
"""Our data set and split for each of the paper's; only COCO's server can score test-dev."""


@dataclass(frozen=True)
class Counterpart:
    """The paper's system that is compared with one of ours."""

    title: str
    """Network, backbone and data."""
    differs: tuple[str, ...]
    """How it differs from ours: data, backbone, metric, test."""
    rows: dict[paper.Label, dict[str, float]]
    """Row label to metric to percent."""
    confirmed: bool

    def has(self, metric: str) -> bool:
        """Whether any row states the metric."""
        return any(metric in row for row in self.rows.values())


def beside(table: str, settings: Mapping[str, Any]) -> Counterpart | None:
    """The rows of a paper's table to compare with runs of these settings; None if the paper has no such network.

    Args:
        table: table1, table3 or table5.
        settings: of one of the runs, as dotted keys.
    """
    system = _from_table5(settings) if table == "table5" else _column(table, settings)
    if system is None:
        return None
    name, split = _SPLITS.get(system.data, ("", ""))
    protocol = settings["data.protocol"] or {"coco": "coco", "voc": "voc07"}.get(settings["data.name"], "voc")
    equal = {
        "data": settings["data.name"] == name and settings["data.test"] in (split, [split]),
        "backbone": settings["model.backbone.name"] == system.backbone,
        "metric": settings["task"] != "detection" or protocol == ("coco" if table == "table5" else "voc07"),
        "test": _test(settings) == system.test,
    }
    title = ", ".join(filter(None, (system.system, system.backbone, system.data, system.test)))
    differs = tuple(key for key, same in equal.items() if not same)
    return Counterpart(title, differs, system.rows, paper.read(table)["status"] == "confirmed")


class _Found(NamedTuple):
    system: str
    backbone: str
    data: str
    test: str
    rows: dict[paper.Label, dict[str, float]]


def _column(table: str, settings: Mapping[str, Any]) -> _Found | None:
    key = settings["model.name"]
    if key == "deeplab":
        key = "deeplab_cityscapes" if settings["data.name"] == "cityscapes" else "deeplab_voc"
    if key not in _SYSTEMS:
        return None
    named = zip(paper_rows.labels(table), paper.read(table)["rows"], strict=True)
    rows = {name: row[key] for name, row in named if key in row}
    return _Found(_SYSTEMS[key], paper.BACKBONE, paper.read("table1")["data"][key], "", rows)


def _from_table5(settings: Mapping[str, Any]) -> _Found | None:
    """The system of table 5 with the same network, and if possible the same backbone and test."""
    table = paper.read("table5")
    of_network = [row for row in table["rows"] if row["model"] == settings["model.name"]]
    if not of_network:
        return None
    ours = (settings["model.backbone.name"], _test(settings))
    row = next((row for row in of_network if (row["backbone"], row.get("test", "")) == ours), of_network[0])
    rows: dict[paper.Label, dict[str, float]] = {
        name: dict(zip(table["columns"], row[str(name)], strict=True)) for name in paper_rows.labels("table5")
    }
    return _Found(_SYSTEMS[row["model"]], row["backbone"], "COCO test-dev", row.get("test", ""), rows)


def _test(settings: Mapping[str, Any]) -> str:
    """How a detector was tested, in table 5's words."""
    words = ["multi_scale"] if settings["test.shorter_sides"] else []
    words += ["iterative_box_average"] if settings["test.box_rounds"] else []
    return " + ".join(words)


def whole_table1() -> tuple[str, list[str], list[list[str]]]:
    """Table 1 for orientation: caption, header and rows, with differences to the first."""
    rows = paper.read("table1")["rows"]
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
