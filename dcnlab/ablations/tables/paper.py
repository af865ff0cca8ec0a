"""The transcription of the paper's tables, and the settings that they vary."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from dcnlab.config.names import networks_with
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


@functools.cache
def read(table: str) -> dict[str, Any]:
    """A table of the packaged transcription, such as `table1`."""
    return read_yaml(Path(__file__).with_name("published.yaml"))[table]


def metrics(table: str) -> list[str]:
    """Names of the metrics in a table of the paper."""
    return read(table)["columns"] if table == "table5" else ["miou", "ap50", "ap70"]
