"""The way of `fit` from the command to results.json, as docs/architecture.md states it."""

import re

import fit_order
from locations import ROOT

PAGE = (ROOT / "docs/architecture.md").read_text()
MOST_CLIMBS = 3


def test_fit_enters_files_in_the_documented_order(tmp_path, monkeypatch):
    """Each file of the page's list is entered after those above it, and few calls lead to a higher room."""
    monkeypatch.chdir(tmp_path)
    trace = fit_order.trace_fit(tmp_path)
    steps = PAGE[PAGE.index("1. `cli/main.py`") : PAGE.index("\n11. ")]
    listed = list(dict.fromkeys(re.findall(r"`([a-z]\w*/[\w/]+\.py)`", steps)))
    assert [path for path in trace.files if path in listed] == [path for path in listed if path in trace.files]
    numbered = re.findall(r"(?m)^\d+\. `([\w/]+\.py)`", steps)
    assert set(numbered) <= set(trace.files)
    assert len(trace.climbs()) <= MOST_CLIMBS, trace.climbs()


def test_climbs_and_returns_are_counted_between_files(tmp_path, monkeypatch):
    """Control on a package of two rooms: a callback is a climb and a return; imports do not count."""
    package = tmp_path / "dcnlab"
    for room, name, text in (
        ("io", "low", "import math\ndef each(call):\n    return list(map(call, [1]))\neach(str)\n"),
        (
            "cli",
            "high",
            "from traced.io import low\ndef top():\n    return low.each(bottom)\ndef bottom(x):\n    return x\n",
        ),
    ):
        (package / room).mkdir(parents=True)
        (package / room / f"{name}.py").write_text(text)
    package.rename(tmp_path / "traced")
    monkeypatch.syspath_prepend(str(tmp_path))
    trace = fit_order.Trace(tmp_path / "traced")
    with trace.recording():
        from traced.cli import high

        high.top()
    assert trace.files == ["cli/high.py", "io/low.py"]
    assert trace.calls == [("cli/high.py", "io/low.py"), ("io/low.py", "cli/high.py")]
    assert trace.climbs() == trace.returns() == [("io/low.py", "cli/high.py")]
