"""A headless Chromium on a leash: its DevTools protocol over a pipe, so that no driver and no port is needed."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import GUARD

EXECUTABLE = shutil.which("chromium")

needed = pytest.mark.skipif(EXECUTABLE is None, reason="no chromium; on Debian: apt-get install chromium")
"""Marks a test that looks at a page."""

_KEYS = {"Enter": 13, " ": 32, "Tab": 9}


class Page:
    """One page; what it asked of the network and what it complained of is kept."""

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read = write, read
        self._buffer = b""
        self._count = 0
        self._session: str | None = None
        self._seen: list[dict[str, Any]] = []
        self.requests: list[str] = []
        self.complaints: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol, and its result."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        answer = self._until(lambda event: event.get("id") == self._count)
        assert "error" not in answer, f"{method}: {answer.get('error')}"
        return answer["result"]

    def open(self, url: str) -> None:
        """Go to an address and wait until it has loaded."""
        self._seen.clear()
        self.call("Page.navigate", url=url)
        if not any(event.get("method") == "Page.loadEventFired" for event in self._seen):
            self._until(lambda event: event.get("method") == "Page.loadEventFired")

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression; promises are waited for."""
        asked = {"expression": expression, "returnByValue": True, "awaitPromise": True, "userGesture": True}
        answer = self.call("Runtime.evaluate", **asked)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def resize(self, width: int, height: int = 800) -> None:
        """Be a window of this size, CSS pixels."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def media(self, media: str = "screen", scheme: str = "light") -> None:
        """Be a screen or a printer, of a reader who likes light or dark."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media=media, features=features)

    def press(self, key: str) -> None:
        """A key, as the keyboard sends it."""
        text = {"Enter": "\r", "Tab": ""}.get(key, key)
        code = {"key": key, "windowsVirtualKeyCode": _KEYS[key], "nativeVirtualKeyCode": _KEYS[key]}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **code)
        self.call("Input.dispatchKeyEvent", type="keyUp", **code)

    def click(self, x: float, y: float) -> None:
        """The left mouse button at a place in the window."""
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def picture(self, path: Path) -> None:
        """The whole page as PNG."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _until(self, wanted: Any) -> dict[str, Any]:
        end = time.monotonic() + GUARD
        while True:
            while b"\0" not in self._buffer:
                ready, _, _ = select.select([self._read], [], [], max(0.0, end - time.monotonic()))
                assert ready, "chromium does not answer"
                part = os.read(self._read, 1 << 20)
                assert part, "chromium has gone"
                self._buffer += part
            text, _, self._buffer = self._buffer.partition(b"\0")
            event = json.loads(text)
            self._note(event)
            if wanted(event):
                return event

    def _note(self, event: dict[str, Any]) -> None:
        method, said = event.get("method"), event.get("params", {})
        self._seen.append(event)
        if method == "Network.requestWillBeSent":
            self.requests.append(said["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(said["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and said["type"] in ("error", "warning", "assert"):
            self.complaints.append(str(said["args"]))
        elif method == "Log.entryAdded" and said["entry"]["level"] in ("error", "warning"):
            self.complaints.append(said["entry"]["text"])


@contextlib.contextmanager
def page() -> Iterator[Page]:
    """A page in a browser of its own, which ends with the block."""
    assert EXECUTABLE is not None
    to_browser, from_browser = os.pipe(), os.pipe()

    def plug() -> None:  # the protocol's places: 3 to read from, 4 to write to
        ours = os.dup(to_browser[0]), os.dup(from_browser[1])
        os.dup2(ours[0], 3)
        os.dup2(ours[1], 4)

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [EXECUTABLE, "--headless=new", "--no-sandbox", "--remote-debugging-pipe", "--disable-gpu"]
        command += ["--no-first-run", "--disable-background-networking", f"--user-data-dir={profile}"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "stdin": subprocess.DEVNULL}
        process = subprocess.Popen(command, close_fds=False, preexec_fn=plug, start_new_session=True, **quiet)
        os.close(to_browser[0])
        os.close(from_browser[1])
        try:
            yield Page(to_browser[1], from_browser[0])
        finally:
            os.close(to_browser[1])  # at the end of the pipe the browser ends too
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            process.wait()
            os.close(from_browser[0])
