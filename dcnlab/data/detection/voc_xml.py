"""Reads VOC's annotation files: XML of an image's size and objects."""

from __future__ import annotations

import math
from pathlib import Path
from xml.etree import ElementTree

from dcnlab.io.errors import DataError
from dcnlab.io.files import read_bytes
from dcnlab.io.image_file import image_size
from dcnlab.io.orientation import Orientation
from dcnlab.io.text import one_line, shown

LARGEST_XML = 16 * 2**20
"""Bytes; VOC's largest has 30 thousand."""

_OVERHANG = 1.0  # pixels: some tools count from 0, others round up
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


class _NoDoctype(ElementTree.TreeBuilder):
    """Refuses a document type, hence every entity, before the parser expands one."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise DataError("it declares a document type (DOCTYPE); annotations need none, and entities are not expanded")


def read_xml(
    path: Path, picture: Path, orientation: Orientation
) -> tuple[tuple[int, int], list[tuple[str, list[float], bool]]]:
    """Read an annotation.

    Args:
        path: of the file.
        picture: path of its image, which is opened if the annotation states no size.
        orientation: says whether that image is turned.

    Returns:
        Height and width in pixels; and of each object its name, box (x1, y1, x2, y2 from 0) and mark `difficult`.

    Raises:
        DataError: the file is missing or not right; one line with the file, the value and the rule.
    """
    try:
        content = read_bytes(path, LARGEST_XML)
    except OSError as error:
        raise DataError(f"{path} cannot be read as an annotation ({error.strerror}); {picture} needs it") from error
    except ValueError as error:
        raise DataError(f"{path} cannot be read as an annotation ({error})") from error
    try:
        tree = ElementTree.fromstring(content, ElementTree.XMLParser(target=_NoDoctype()))
    except (ElementTree.ParseError, ValueError, LookupError, MemoryError) as error:
        # LookupError: the encoding is unknown.
        raise DataError(f"{path} cannot be read as XML ({one_line(error)})") from error
    if tree.tag != "annotation":
        raise DataError(f"{path} begins with <{shown(tree.tag)}>, should be <annotation>")
    size = _size(tree, path, picture, orientation)
    return size, [_object(node, f"{path} object {n}", size) for n, node in enumerate(tree.findall("object"), 1)]


def _size(tree: ElementTree.Element, path: Path, picture: Path, orientation: Orientation) -> tuple[int, int]:
    """Height and width from the file, or from the image's head if the file does not state them."""
    node = tree.find("size")
    height, width = (0.0, 0.0) if node is None else (_number(node, tag, str(path)) for tag in ("height", "width"))
    if height == 0 and width == 0:
        try:
            return image_size(picture, orientation)
        except ValueError as error:
            raise DataError(f"{path} has no size, and its image cannot tell: {error}") from error
    for tag, value in (("height", height), ("width", width)):
        if not 1 <= value <= 1e6 or value != int(value):
            raise DataError(f"{path} has the {tag} {value:g}, should be whole pixels from 1 to 1000000")
    return int(height), int(width)


def _object(node: ElementTree.Element, source: str, size: tuple[int, int]) -> tuple[str, list[float], bool]:
    name = (node.findtext("name") or "").strip()
    if not name:
        raise DataError(f"{source} has no <name>")
    corners = node.find("bndbox")
    if corners is None:
        raise DataError(f"{source} has no <bndbox>")
    x1, y1, x2, y2 = (_number(corners, tag, source) for tag in _CORNERS)
    subject = f"{source} has the box xmin {x1:g}, ymin {y1:g}, xmax {x2:g}, ymax {y2:g}"
    if x2 < x1 or y2 < y1:
        raise DataError(f"{subject}; needs xmin <= xmax and ymin <= ymax")
    height, width = size
    if min(x1, y1) < 1 - _OVERHANG or x2 > width + _OVERHANG or y2 > height + _OVERHANG:
        raise DataError(f"{subject}, which leaves the image of width {width} and height {height}; pixels count from 1")
    difficult = (node.findtext("difficult") or "0").strip()
    if difficult not in ("0", "1"):
        raise DataError(f"{source} has the <difficult> {shown(difficult)}, should be 0 or 1")
    return name, [x1 - 1, y1 - 1, x2, y2], difficult == "1"


def _number(node: ElementTree.Element, tag: str, source: str) -> float:
    text = node.findtext(tag)
    try:
        value = float("" if text is None else text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{source} has the <{tag}> {shown(text)}, should be a number")
    return value
