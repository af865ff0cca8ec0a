"""Finds the row of the paper's tables 1, 3 and 5 that a run belongs to, by its settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dcnlab.ablations.tables import paper
from dcnlab.training.run_folder import OFFSETS

_DILATIONS = (2, 4, 6, 8)


_CONV, _POOL, _BOTH = "deformable convolution", "deformable RoI pooling", "both"


def dilation(settings: Mapping[str, Any]) -> int:
    """The dilation of the last stage; the task's default where `model.dilation` is null."""
    return settings[paper.DILATION] or default_dilation(settings)


def default_dilation(settings: Mapping[str, Any]) -> int:
    """The dilation of the last stage that a task has by default."""
    return 1 if settings["task"] == "classification" else 2


def labels(table: str, pools: bool = True) -> list[paper.Label]:
    """The rows of a table, the one that others are compared with first.

    Args:
        table: table1, table3 or table5.
        pools: whether the network pools RoIs; two rows of table 3 need it.
    """
    if table == "table1":
        return [row["layers"] for row in paper.read(table)["rows"]]
    if table == "table3":
        return [*(f"dilation {rate}" for rate in _DILATIONS), _CONV, *((_POOL, _BOTH) if pools else ())]
    return ["plain", "deformable"]


def settings_of(table: str, row: paper.Label, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a row of a table, given those of another row of the same system."""
    if table == "table1":
        return {**settings, paper.LAYERS: row}
    if table == "table5":
        deformable = row == "deformable"
        pooling = deformable and settings["model.name"] in paper.POOLING_MODELS
        return {**settings, paper.LAYERS: paper.DEFORM_LAYERS * deformable, paper.POOLING: pooling}
    rate = next((rate for rate in _DILATIONS if row == f"dilation {rate}"), None)
    layers, pooling = paper.DEFORM_LAYERS * (row in (_CONV, _BOTH)), row in (_POOL, _BOTH)
    return {**settings, paper.LAYERS: layers, paper.POOLING: pooling, paper.DILATION: rate}


def label(table: str, settings: Mapping[str, Any]) -> paper.Label | None:
    """The row of a table that a run is of, or None."""
    layers, pooling = settings[paper.LAYERS], settings[paper.POOLING]
    if (layers or pooling) and (settings["model.deform_kind"] != "deformable" or settings["model.modulated"]):
        return None
    if (layers or pooling) and not settings["optim.offset_lr_scale"]:  # offsets that stay zero: the noise floor
        return None
    if settings["model.spatial_transformer"] or settings.get(OFFSETS, "predicted") != "predicted":
        return None
    if table == "table1":
        return layers if not pooling and layers in labels(table) else None
    if table == "table5":
        if not layers and not pooling:
            return "plain"
        whole = layers == paper.DEFORM_LAYERS and pooling == (settings["model.name"] in paper.POOLING_MODELS)
        return "deformable" if whole else None
    if not layers and not pooling:
        return f"dilation {dilation(settings)}" if dilation(settings) in _DILATIONS else None
    if dilation(settings) != default_dilation(settings) or layers not in (0, paper.DEFORM_LAYERS):
        return None
    return _BOTH if layers and pooling else _CONV if layers else _POOL


def is_none(settings: Mapping[str, Any], swept: Sequence[str]) -> bool:
    """Whether a row is `none`: nothing deformable, and the default dilation where dilation is swept.

    Args:
        settings: of the row.
        swept: parameters that differ between rows of its table.
    """
    if settings[paper.LAYERS] or settings[paper.POOLING] or settings["model.spatial_transformer"]:
        return False
    return paper.DILATION not in swept or dilation(settings) == default_dilation(settings)


def table_of(swept: Sequence[str]) -> str | None:
    """The paper's table that a sweep over these settings repeats, or None."""
    if paper.DILATION in swept or paper.POOLING in swept:
        return "table3"
    return "table1" if paper.LAYERS in swept else None
