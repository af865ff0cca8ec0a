"""Reads the .wandb file of an offline run: LevelDB's log format, with wandb's own protobuf messages in it."""

import json
import struct
from pathlib import Path
from typing import Any

_HEADER, _BLOCK = 7, 32768


def records(path: Path) -> list[Any]:
    """Every record that `wandb sync` would send."""
    from wandb.proto import wandb_internal_pb2

    data, at, parts, found = path.read_bytes(), _HEADER, [], []
    while at + _HEADER <= len(data):
        left = _BLOCK - at % _BLOCK
        if left < _HEADER:  # a block's end that holds no header
            at += left
            continue
        length, kind = struct.unpack("<xxxxHB", data[at : at + _HEADER])
        parts.append(data[at + _HEADER : at + _HEADER + length])
        at += _HEADER + length
        if kind in (1, 4):  # whole, or the last part
            found.append(wandb_internal_pb2.Record.FromString(b"".join(parts)))
            parts = []
    return found


def config(found: list[Any]) -> dict[str, Any]:
    """A run's config, as the records build it up."""
    updates = [item for one in found for item in (*one.run.config.update, *one.config.update)]
    return {item.key: json.loads(item.value_json) for item in updates if item.key}


def summary(found: list[Any]) -> dict[str, Any]:
    """A run's summary, as explicit records build it up."""
    total: dict[str, Any] = {}
    for item in (item for one in found for item in one.summary.update):
        place, keys = total, list(item.nested_key) or [item.key]
        for key in keys[:-1]:
            place = place.setdefault(key, {})
        place[keys[-1]] = json.loads(item.value_json)
    return total


def history(found: list[Any]) -> list[dict[str, Any]]:
    """What was logged, row by row."""
    rows = [[(".".join(item.nested_key) or item.key, item.value_json) for item in one.history.item] for one in found]
    return [{key: json.loads(value) for key, value in row} for row in rows if row]
