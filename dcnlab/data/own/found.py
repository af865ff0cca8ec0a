"""Own: a user's folder as it was read, and the line that says what was found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from dcnlab.data.own.splits import Dealt, Part
from dcnlab.io.errors import DataError

Images = TypeVar("Images")

_NAMED = 6
"""Classes, files or folders that a line names."""


@dataclass(frozen=True)
class Own(Generic[Images]):
    """A user's folder, as it was read."""

    layout: str
    """Name of its layout, of `names.OWN_LAYOUTS`."""
    line: str
    """One line: the layout, the classes and the splits."""
    splits: Mapping[str, Images]
    """train, val and test."""

    def split(self, name: str) -> Images:
        """One of the three splits.

        Raises:
            DataError: it is none of them.
        """
        if name not in self.splits:
            raise DataError(f"a folder of one's own has the splits {', '.join(self.splits)}, not {name!r}")
        return self.splits[name]


def listed(names: list[str] | tuple[str, ...]) -> str:
    """Some names in a line; of many the first ones."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return (", ".join(names[:_NAMED]) + more) or "nothing"


def line_of(
    root: Path,
    what: str,
    classes: list[str] | tuple[str, ...],
    counts: Mapping[str, int],
    dealt: Dealt,
    also: list[str],
) -> str:
    """The line that says what was found in a folder and what was made of it.

    Args:
        root: of the folder.
        what: the layout, in words.
        classes: names.
        counts: images of each split.
        dealt: how the splits were made.
        also: other layouts that fit as well.
    """
    images = ", ".join(f"{name} {count}" for name, count in counts.items())
    sources = [f"{role} is {part.source}" for role, part in dealt.parts.items() if _is_renamed(role, part)]
    sources = sources if dealt.parts["test"] is not dealt.parts["val"] else sources[:-1]  # the sentence says it
    how = "; ".join([*sources, *([dealt.how] if dealt.how else [])])
    text = f"{root}: {what}; {len(classes)} classes: {listed(list(classes))}; images: {images}"
    text += f" ({how})" if how else ""
    return text + (f"; it also has {', '.join(also)}: data.layout={also[0]} takes it" if also else "")


def _is_renamed(role: str, part: Part) -> bool:
    return part.positions is None and part.source not in (role, "")
