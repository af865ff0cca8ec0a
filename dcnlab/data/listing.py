"""Length and hash of a split's list of images, by which a changed data set is noticed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence, Sized
from typing import Any

import numpy as np


def listing(split: Any) -> dict[str, Any]:
    """Length and hash of a split's list of images, not of their pixels; a data set that only moved has the same.

    Args:
        split: one of our data sets. Of others only the length is known.

    Returns:
        `images`, their number, and `hash`, of their names in order; None where they have none.
    """
    assert isinstance(split, Sized)
    annotations, scenes = getattr(split, "annotations", None), getattr(split, "scenes", None)
    files = getattr(annotations or split, "files", None)
    if files is not None:
        names = [str(name) for name in np.ravel(files).tolist()]
    elif scenes is not None:  # drawn from embedded digits, by a key
        names = [str(scenes.key), *map(str, scenes.digit_labels.tolist())]
    else:
        return {"images": len(split), "hash": None}
    return {"images": len(split), "hash": _hash(names)}


def _hash(names: Sequence[str]) -> str:
    """Hash names below the folder that all of them share."""
    # In sorted order, the prefix that the first and the last name share is shared by all.
    shared = os.path.commonpath([os.path.dirname(min(names)), os.path.dirname(max(names))]) if names else ""
    text = "\n".join(name[len(shared) :] for name in names)
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
