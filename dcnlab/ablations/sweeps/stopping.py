"""Turns the first signal that ends a sweep into an exception, and notes a second one."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from dataclasses import dataclass

from dcnlab.io.text import say_at_once


class Stopped(BaseException):
    """The sweep got a signal to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@dataclass
class Haste:
    """Whether the trials are to end at once, without saving."""

    asked: bool = False


@contextlib.contextmanager
def stoppable() -> Iterator[Haste]:
    """Turn Ctrl-C, SIGTERM and a closed terminal into `Stopped`, once; a second one asks for haste."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    haste = Haste()

    def hurry(number: int, frame: object) -> None:  # the children are being stopped; nothing may interrupt that
        haste.asked = True

    def raise_once(number: int, frame: object) -> None:
        for other in numbers:
            signal.signal(other, hurry)
        if number == signal.SIGINT:
            say_at_once("Ctrl-C: the trials save and end; a second one ends them at once")
        raise Stopped(number)

    before = {number: signal.signal(number, raise_once) for number in numbers}
    try:
        yield haste
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
