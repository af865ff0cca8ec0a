"""What a run found in a user's folder: recorded in results.json, and compared when the run is scored again."""

from __future__ import annotations

from typing import Any

from dcnlab.config.schema import Config
from dcnlab.data.listing import listing

_SPLITS = ("train", "val", "test")


def record(data: Any) -> dict[str, Any]:
    """The `data` of results.json: layout, line and the list of each split's images; empty for other data sets."""
    own = getattr(data, "own", None)
    if own is None:
        return {}
    known = {name: getattr(data, name) for name in _SPLITS}
    splits = {name: listing(split) for name, split in known.items() if split is not None}  # data.val may be null
    return {"data": {"layout": own.layout, "found": own.line, "splits": splits, "classes": list(data.classes)}}


def take_layout(config: Config, results: dict[str, Any] | None) -> None:
    """Have a run's folder read in the layout that the run found; a layout of the config stays.

    Args:
        config: of the run; changed in place.
        results: of its results.json; None where it has none.
    """
    recorded = _recorded(results)
    if config.data.name == "own" and config.data.layout is None and isinstance(recorded.get("layout"), str):
        config.data.layout = recorded["layout"]


def difference(data: Any, results: dict[str, Any] | None) -> str | None:
    """A line on a test split that lists other images than the run's; None: the same, or nothing is recorded.

    Args:
        data: the data module.
        results: of the run's results.json; None where it has none.
    """
    splits = _recorded(results).get("splits")
    before = splits.get("test") if isinstance(splits, dict) else None
    if getattr(data, "own", None) is None or not isinstance(before, dict):
        return None
    now = listing(data.test)
    if now == before:
        return None
    return f"data.root has changed: its test split has {now['images']} images, and the run's had {before.get('images')}"


def _recorded(results: dict[str, Any] | None) -> dict[str, Any]:
    recorded = (results or {}).get("data")
    return recorded if isinstance(recorded, dict) else {}
