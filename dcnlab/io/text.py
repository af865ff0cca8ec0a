"""Text of errors and tables: made safe to print, shortened, with the nearest known name."""

from __future__ import annotations

import contextlib
import difflib
import logging
import os
import sys
import unicodedata
import warnings
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, TextIO

from dcnlab.io.errors import DataError

_JOINERS = "\u200c\u200d"
"""Format characters that some scripts are spelled with, and that move nothing."""

_FORMULA = tuple("=+-@\uff1d\uff0b\uff0d\uff20")
"""A spreadsheet computes a cell that begins with one of these, or with one of their wide forms."""

_MARKDOWN = {ord(sign): f"\\{sign}" for sign in "\\|`<"}


def visible(text: object, keep: str = "") -> str:
    r"""Write control, bidirectional and other unprintable characters as escapes such as `\u001b`, which JSON reads too.

    A terminal obeys the controls, shows text in another order after a bidirectional one, and no encoding takes a lone
    surrogate.

    Args:
        text: any text; another object is turned into text.
        keep: characters that stay, such as the ends of lines.
    """
    text = text if isinstance(text, str) else str(text)
    if text.isascii() and text.isprintable():
        return text
    return "".join(sign if sign in keep else _escaped(sign) for sign in text)


@cache
def _escaped(sign: str) -> str:
    unsafe = unicodedata.category(sign) in ("Cc", "Cf", "Cs", "Zl", "Zp") and sign not in _JOINERS
    if not unsafe:
        return sign
    number = ord(sign)
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def say(text: object, file: TextIO | None = None, flush: bool = False, block: bool = False) -> None:
    """Print a line; everything foreign that reaches a terminal goes through here.

    Args:
        text: to print.
        file: standard output if None.
        flush: see `print`.
        block: whether the text is several lines, whose foreign parts were made visible before.
    """
    stream = sys.stdout if file is None else file
    shown = visible(text, keep="\n" if block else "")
    encoding = getattr(stream, "encoding", None) or "utf-8"
    print(shown.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=flush)


def say_at_once(text: str) -> None:
    """Print a line to standard error from a handler of a signal, which may have interrupted another print."""
    with contextlib.suppress(OSError):
        begin = "\n" if os.isatty(2) else ""  # a terminal shows ^C, often behind a bar
        os.write(2, f"{begin}{visible(text)}\n".encode(errors="backslashreplace"))


def markdown(text: str) -> str:
    """Escape what ends a cell of a Markdown table, or begins code or HTML in it."""
    return visible(text).translate(_MARKDOWN)


def csv_cell(value: Any) -> Any:
    """Disarm text that a spreadsheet would compute, by a quotation mark in front; numbers stay as they are."""
    if not isinstance(value, str):
        return value
    text = visible(value)
    return f"'{text}" if text.lstrip().startswith(_FORMULA) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def check_encodable(name: str, source: str) -> None:
    """Refuse a name with a lone surrogate, as names of files have that are not UTF-8: no file of ours can hold it.

    Raises:
        DataError: it has one; one line that begins with `source`.
    """
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{source} {visible(name)} is not UTF-8; rename it") from error


def closest(word: str, known: Iterable[str], count: int = 1, cutoff: float = 0.6) -> list[str]:
    """The known names most like `word`, the most similar first.

    Args:
        word: that is not known.
        known: to choose from.
        count: of names, at most.
        cutoff: similarity, 0 to 1, that a name must have; 0 takes any.
    """
    return difflib.get_close_matches(str(word), list(known), n=count, cutoff=cutoff)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known name most like `word`; None where none is similar."""
    return next(iter(closest(word, known)), None)


def nearest_and_all(word: str, known: Iterable[str]) -> str:
    """The end of an error about an unknown name: the nearest one, and all that are known."""
    names = sorted(known)
    near = closest(word, names, cutoff=0.4)
    return (f"nearest is {near[0]!r}; " if near else "") + f"there are {', '.join(names) or 'none'}"


def shown(value: object) -> str:
    """Write a value for an error: on one line, however long it is."""
    if value is None or isinstance(value, bool):  # as files and the command line write them
        return {None: "null", True: "true", False: "false"}[value]
    try:
        text = repr(value)
    except RecursionError:
        return f"a {type(value).__name__} nested without end"
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"


def one_line(error: BaseException) -> str:
    """The message of an exception, its lines joined, at a length that a person reads."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, MemoryError):
        text = "there is not enough memory for it"
    return text if len(text) <= 500 else f"{text[:480]}... ({len(text)} characters)"


class VisibleFormatter(logging.Formatter):
    """Formats our log lines, foreign names in them made visible."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        lines = super().format(record).splitlines()  # a traceback has several
        return "\n".join(map(visible, lines))


def show_warnings_visibly() -> None:
    """Have Python's warnings, and log lines before a log is set up, printed with the names in them made visible."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(VisibleFormatter())
    plain: Callable[..., str] = warnings.formatwarning
    warnings.formatwarning = lambda *args, **kwargs: visible(plain(*args, **kwargs), keep="\n")
