"""A pytest plugin of gpu_check.py: a short set first, and each outcome in a file at once.

The short set is the first case of every test. A time limit then cuts further cases of tests that have run, and no test.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

_LINES = 20
"""Of a failure's text, the last ones that are kept."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that names the file."""
    parser.addoption("--rows", type=Path, help="file of JSON lines, to which each outcome is appended")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the first case of each test before all further ones; otherwise the order stays."""
    seen: set[str] = set()

    def is_further(item: pytest.Item) -> bool:
        test = item.nodeid.partition("[")[0]
        known = test in seen
        seen.add(test)
        return known

    items.sort(key=is_further)


class _Outcomes:
    """Appends a row for each test that has ended."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep a call's outcome, and of set-up and clean-up what is not a success."""
        if report.when != "call" and report.passed:
            return
        row = {"test": report.nodeid, "outcome": report.outcome, "seconds": round(report.duration, 3)}
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            row["error"] = crash.message.splitlines()[0] if crash and crash.message else report.outcome
            row["why"] = "\n".join(report.longreprtext.splitlines()[-_LINES:])
        elif report.skipped and isinstance(report.longrepr, tuple):
            row["why"] = report.longrepr[2]
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def pytest_configure(config: pytest.Config) -> None:
    """Listen where a file is named."""
    path = config.getoption("--rows")
    if path is not None:
        config.pluginmanager.register(_Outcomes(path))
