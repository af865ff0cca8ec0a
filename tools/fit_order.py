"""Prints the files that `dcnlab fit` enters, in order, with its climbs and returns: `python tools/fit_order.py`.

The count is of calls between files in the main thread; calls by Lightning or torch count as made by the file that
called them, and imports do not count. A climb is a call of a room by a lower room: a callback. A return is a call of a
file by one that was entered later.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import CodeType, FrameType

import house

COMMAND = (
    "fit",
    "classification/quickstart",
    "trainer.max_steps=2",
    "trainer.accelerator=cpu",
    "data.train_length=32",
    "data.test_length=40",
    "data.batch_size=16",
    "data.image_size=28",
    "data.workers=0",
    "model.backbone.name=resnet10_slim",
    "logger.names=[csv]",
    "id=traced",
)
"""A run that takes seconds, without loader processes."""


class Trace:
    """The files that a program enters, and the calls between them.

    Args:
        package: folder whose files count.
    """

    def __init__(self, package: Path) -> None:
        self.files: list[str] = []
        """Paths below the package, in the order in which they are entered."""
        self.calls: list[tuple[str, str]] = []
        """Each file that calls another one, with that one, in the order of the first call."""
        self._prefix = f"{package}/"
        self._paths: dict[CodeType, str] = {}
        self._imports = 0  # modules that are being imported at present

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record what the block calls."""
        sys.setprofile(self._record)
        try:
            yield
        finally:
            sys.setprofile(None)

    def climbs(self) -> list[tuple[str, str]]:
        """The calls of a higher room."""
        floor = {name: number for number, names in enumerate(house.FLOORS) for name in names}
        return [(one, other) for one, other in self.calls if floor[_room(other)] > floor[_room(one)]]

    def returns(self) -> list[tuple[str, str]]:
        """The calls of a file that was entered before the caller."""
        position = {path: number for number, path in enumerate(self.files)}
        return [(one, other) for one, other in self.calls if position[other] < position[one]]

    def _record(self, frame: FrameType, event: str, argument: object) -> None:
        if frame.f_code.co_name == "<module>":
            self._imports += (event == "call") - (event == "return")
        elif event == "call" and not self._imports and (path := self._path(frame.f_code)):
            caller = self._caller(frame)
            if path not in self.files:
                self.files.append(path)
            if caller not in ("", path) and (caller, path) not in self.calls:
                self.calls.append((caller, path))

    def _caller(self, frame: FrameType) -> str:
        """The file of the package that a frame was called from, directly or through a library; empty for none."""
        outer = frame.f_back
        while outer is not None and not self._path(outer.f_code):
            outer = outer.f_back
        return "" if outer is None else self._path(outer.f_code)

    def _path(self, code: CodeType) -> str:
        """The path of a code's file below the package; empty for other files, and for the package's import hook."""
        if code not in self._paths:
            inside = code.co_filename.startswith(self._prefix)
            path = code.co_filename.removeprefix(self._prefix) if inside else ""
            self._paths[code] = "" if path == "__init__.py" else path
        return self._paths[code]


def _room(path: str) -> str:
    """The room of a file, by its path below the package."""
    return path.partition("/")[0].removesuffix(".py")


def trace_fit(folder: Path) -> Trace:
    """Trace a fit of the command line.

    Args:
        folder: that the run is written below.
    """
    from dcnlab.cli.main import main as dcnlab

    trace, words = Trace(house.ROOT / house.PACKAGE), sys.argv
    sys.argv = ["dcnlab", *COMMAND, f"out={folder}"]
    try:
        with suppress(SystemExit), trace.recording():
            dcnlab()
    finally:
        sys.argv = words
    return trace


def main() -> None:
    """Trace a fit in a temporary folder, and print what it entered."""
    with tempfile.TemporaryDirectory() as folder:
        trace = trace_fit(Path(folder))
    print("\n".join(trace.files))
    for name, pairs in (("climbs", trace.climbs()), ("returns", trace.returns())):
        print(f"\n{len(pairs)} {name}:", *(f"{one} -> {other}" for one, other in pairs), sep="\n    ")
    print(f"\n{len(trace.files)} files, {len(trace.calls)} calls between them")


if __name__ == "__main__":
    main()
