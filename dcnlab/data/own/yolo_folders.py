"""Finds the images of each split in YOLO's form, by the folders' names or by what data.yaml states."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dcnlab.data.image_list import read_lines
from dcnlab.data.own.folders import holds, split_folders
from dcnlab.data.own.splits import ROLES, WHOLE, role_of
from dcnlab.io.errors import ConfigError, DataError
from dcnlab.io.image_file import ENDINGS
from dcnlab.io.named_files import NamedFiles
from dcnlab.io.text import shown
from dcnlab.io.yaml_file import read_yaml

_TEXT = (".txt",)


@dataclass(frozen=True)
class YoloFolders:
    """Where the images lie, by split."""

    sources: dict[str, list[Path]]
    """Of each split, folders of images and text files that list images."""


def find_yolo(root: Path) -> YoloFolders | None:
    """Find images and labels in a folder; None: there are none.

    The splits that data.yaml states count where they are not those that the folders' names say.
    """
    by_name = _by_name(root)
    stated: dict[str, list[Path]] = {}
    with contextlib.suppress(DataError):  # `read_yolo` says so, where the layout is YOLO's
        stated = _stated(root, first_yaml(root)[1])
    same = all(
        any((name == WHOLE or role_of(name) == role) and [source] == sources for name, source in by_name.items())
        for role, sources in stated.items()
    )
    if stated and not same and any(_has_labels(root, source) for source in stated["train"]):
        return YoloFolders(stated)
    known = {name: [folder] for name, folder in by_name.items() if _has_labels(root, folder)}
    return YoloFolders(known) if known else None


def _by_name(root: Path) -> dict[str, Path]:
    """Folders of images below a folder of that name, or in folders named as splits; else all images are one source."""
    below = {folder.name: folder for folder in split_folders(root / "images")}
    named = below or {folder.name: folder / "images" for folder in split_folders(root)}
    return {name: folder for name, folder in named.items() if _has_labels(root, folder)} or {WHOLE: root / "images"}


def _has_labels(root: Path, source: Path) -> bool:
    """Whether a folder holds images, and the folder of their labels text files; a list need only exist."""
    if source.is_dir():
        return holds(source) and holds(label_of(root, source / "x").parent, _TEXT)
    return source.is_file()


def _stated(root: Path, content: dict[str, Any]) -> dict[str, list[Path]]:
    """The splits that data.yaml states, by role; empty where it states no training images that are here.

    A split of the same images as the training, as small examples have it, does not count.
    """
    stated: dict[str, list[Path]] = {}
    for role in ROLES:
        entries = content.get(role) or []
        sources = [_source(root, str(entry)) for entry in (entries if isinstance(entries, list) else [entries])]
        known = [source for source in sources if source is not None]
        if known and len(known) == len(sources) and known != stated.get("train"):
            stated[role] = known
    return stated if "train" in stated else {}


def _source(root: Path, entry: str) -> Path | None:
    """The folder or list that an entry of data.yaml means, below the root; None: it is not here.

    Exports write `../train/images` for a folder next to data.yaml.
    """
    path = below(root, entry)
    return path if path is not None and (path.is_dir() or (path.suffix in _TEXT and path.is_file())) else None


def below(root: Path, entry: str) -> Path | None:
    """A path that a file states, without `./` and `../` before it, as one below the root; None: it leaves the root."""
    path = Path(entry)
    if path.is_absolute():
        return path if path.is_relative_to(root.absolute()) and ".." not in path.parts else None
    parts = list(path.parts)
    while parts[:1] == [".."]:
        del parts[0]
    return None if ".." in parts else root.joinpath(*parts)


def images_of(root: Path, source: Path) -> Iterator[Path]:
    """The images of a folder, or of a list, whose lines are paths.

    Raises:
        DataError: a line names no image below the root; names the line.
    """
    if source.is_dir():
        files = NamedFiles(source)
        yield from (path for path in map(files.find, files.names()) if path is not None)
        return
    for number, line in read_lines(source):
        path = below(root, line)
        if path is None or path.suffix.lower() not in ENDINGS or not path.is_file():
            raise DataError(f"{source} line {number} is {shown(line)}; it must be the path of an image below {root}")
        yield path


def label_of(root: Path, image: Path) -> Path:
    """The text file of an image: `labels` takes the place of the last `images` in its path below the root."""
    path = within(root, image)
    parts = list(path.parts[:-1])
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return root.joinpath(*parts, path.name).with_suffix(".txt")


def within(root: Path, path: Path) -> Path:
    """A path below the root, relative to it."""
    return path.absolute().relative_to(root.absolute())


def first_yaml(root: Path) -> tuple[Path, dict[str, Any]]:
    """The first .yaml of a folder with `names`, data.yaml before others, and its content; empty where there is none.

    Raises:
        DataError: it cannot be read; one line.
    """
    for path in sorted(root.glob("*.y*ml"), key=lambda path: (path.stem != "data", path.name)):
        try:
            content = read_yaml(path)
        except ConfigError as error:
            raise DataError(str(error)) from error
        if isinstance(content.get("names"), dict | list) and content["names"]:
            return path, content
    return root, {}
