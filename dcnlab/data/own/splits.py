"""Splits of a user's folder: those that it has, and images held out by a hash of their names."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dcnlab.io.errors import DataError

ROLES = {
    "train": ("train", "training", "trn", "trainval"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "tests"),
}
"""Names of splits by the role that they play, the most usual first."""

FRACTIONS = {"test": 0.2, "val": 0.1}
"""Of the images that are held out of a folder without splits."""

WHOLE = ""
"""Name of the only source of a folder without splits."""


@dataclass(frozen=True)
class Part:
    """One split: images of some source, all of them or those at some positions."""

    source: str
    """Name of the split in the folder."""
    positions: NDArray[np.intp] | None = None
    """Of its images, ascending; None takes all."""


@dataclass(frozen=True)
class Dealt:
    """The three splits, and a sentence that says how they were made."""

    parts: Mapping[str, Part]
    how: str


def role_of(name: str) -> str | None:
    """The role that the name of a split, a folder or a file states, such as `instances_train2017`; None: none."""
    words = re.findall(r"[a-z]+", name.lower())
    for role, names in ROLES.items():
        if any(word in names for word in words):
            return role
    return None


def by_role(names: Iterable[str]) -> dict[str, str]:
    """The name of each role; of several names the most usual, then the shortest."""
    chosen: dict[str, str] = {}
    for role, known in ROLES.items():
        fitting = [name for name in names if role_of(name) == role]
        order = {name: next(k for k, word in enumerate(known) if word in name.lower()) for name in fitting}
        last = "trainval"
        fitting.sort(key=lambda name: (last in name.lower(), order[name], len(name), name))
        if fitting:
            chosen[role] = fitting[0]
    return chosen


def deal(sources: Mapping[str, Sequence[str]], root: Path, labels: Sequence[int] | None = None) -> Dealt:
    """Make three splits of those that a folder has; missing ones are held out of the training images.

    Args:
        sources: names of the images by split; of a folder without splits, under one name.
        root: of the folder, for errors.
        labels: classes of the training images, each of which is cut by itself.

    Raises:
        DataError: no split trains, or there are too few images; one line.
    """
    roles = by_role(sources)
    if not roles and len(sources) == 1:
        roles = {"train": next(iter(sources))}
    if "train" not in roles:
        raise DataError(f"data.root {root} has no split to train on; its splits are {', '.join(sources)}")
    train, missing = roles["train"], [role for role in ROLES if role not in roles]
    if missing == ["test"]:
        parts = {role: Part(roles[role]) for role in ("train", "val")}
        return Dealt({**parts, "test": parts["val"]}, f"without a test split: {roles['val']} is scored as test too")
    if not missing:
        return Dealt({role: Part(roles[role]) for role in ROLES}, "")
    fractions = {role: FRACTIONS[role] for role in FRACTIONS if role in missing}
    held = hold_out(sources[train], fractions, root, labels)
    parts = {role: Part(train, held[role]) if role in held else Part(roles[role]) for role in ROLES}
    shares = ", ".join(f"{round(100 * fraction)}% {role}" for role, fraction in fractions.items())
    return Dealt(parts, f"{shares} held out of {train or 'all images'} by a hash of the file names")


def hold_out(
    names: Sequence[str], fractions: Mapping[str, float], root: Path, labels: Sequence[int] | None = None
) -> dict[str, NDArray[np.intp]]:
    """Cut images by the hash of their names, so that every run and every seed cuts them alike.

    Args:
        names: of the images, relative to the root.
        fractions: of the images by split; at least one image goes to each.
        root: of the folder, for errors.
        labels: classes of the images, each of which is cut by itself; None cuts all at once.

    Returns:
        Positions of each split's images, ascending; `train` has the rest.

    Raises:
        DataError: a class, or the folder, has fewer images than there are splits; one line.
    """
    hashes = [hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest() for name in names]
    groups: dict[int, list[int]] = {}
    for at in sorted(range(len(names)), key=lambda at: (hashes[at], names[at])):
        groups.setdefault(0 if labels is None else int(labels[at]), []).append(at)
    chosen: dict[str, list[int]] = {role: [] for role in (*fractions, "train")}
    for group in groups.values() or [[]]:
        if len(group) <= len(fractions):
            where = f"a class of {root}" if labels is not None else f"data.root {root}"
            raise DataError(f"{where} has {len(group)} images; at least {len(fractions) + 1} make its splits")
        first = 0
        for role, fraction in fractions.items():
            count = max(1, round(fraction * len(group)))
            chosen[role] += group[first : first + count]
            first += count
        chosen["train"] += group[first:]
    return {role: np.array(sorted(at), np.intp) for role, at in chosen.items()}
