"""The page that gpu_check.py prints: what came out, and what to look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

WAITING = 1.3
"""A call that takes so many times as long as its replay as a CUDA graph leaves the GPU waiting for Python."""
PLAIN = 4.0
"""A layer that takes so many times as long as the plain convolution."""
FLOOR = 0.25
"""The least possible time over ours, below which a kernel is worth a profile."""
STEP = 1.4
"""A training step that takes so many times as long as the plain network's; the paper's take 1.05 to 1.31."""
GAIN = 1.05
"""How many times faster the fused kernel must be for the rule."""
SHORT = {
    "ours_channels_last_ms": "ours ms",
    "ours_ms": "ours ms",
    "torchvision_ms": "torchvision ms",
    "plain_ms": "plain ms",
    "scalar_ms": "scalar ms",
    "times_plain": "times plain",
    "share_of_floor": "share of floor",
    "times_faster_than_scalar": "x scalar",
}
"""Columns of the page's tables."""
SHOWN = 5
"""Lines of one kind on the page; the JSON has all."""

Row = dict[str, Any]


def page(result: dict[str, Any]) -> str:
    """One page of text."""
    machine, parts = result["machine"], result["parts"]
    versions = ", ".join(f"{name} {machine[name]}" for name in ("torch", "cuda", "cupy") if machine.get(name))
    lines = [f"{machine.get('device', 'unknown device')}, {versions}{', dry run' if result['dry'] else ''}", ""]
    for name, part in parts.items():
        seconds = f"{part['seconds']:5.0f} s" if "seconds" in part else " " * 7
        lines.append(f"{name:20} {part['status']:11} {seconds}  {_outcome(name, part)}")
    for name, part in parts.items():
        table = _table(name, part["rows"])
        lines += ["", name, *table] if table else []
    faults = look_at(result)
    return "\n".join([*lines, "", "Look at:" if faults else "Nothing to look at.", *(f"- {line}" for line in faults)])


def look_at(result: dict[str, Any]) -> list[str]:
    """What is wrong or unexpected, a line each, the worst first."""
    return [line for finding in (_broken, _tests, _slow, _waiting, _fused) for line in finding(result["parts"])]


def _outcome(name: str, part: dict[str, Any]) -> str:
    if "why" in part:
        return str(part["why"])
    if name == "tests":
        counts = Counter(row["outcome"] for row in part["rows"])
        return ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
    if name == "doctor":
        return ", ".join(f"{count} {mark}" for mark, count in Counter(row["mark"] for row in part["rows"]).items())
    return f"{len(part['rows'])} rows"


def _table(name: str, rows: list[Row]) -> list[str]:
    """Milliseconds and ratios of a part that measures, for its first shapes."""
    columns: tuple[str, ...] | None = {
        "operators": ("shape", "ours_channels_last_ms", "torchvision_ms", "plain_ms", "times_plain", "share_of_floor"),
        "RoI pooling": ("pooling", "ours_ms", "torchvision_ms", "scalar_ms", "times_faster_than_scalar"),
        "networks": ("network", "ours_ms", "plain_ms", "torchvision_ms", "times_plain"),
    }.get(name.partition(",")[0])
    if columns is None or not rows:
        return []
    head = f"  {'':44}" + "".join(f"{SHORT[column]:>15}" for column in columns[1:])
    shown = [row for row in rows if row.get("batch", 1) == 1][:16]
    return [head, *(_line(row, columns).rstrip() for row in shown)]


def _line(row: Row, columns: tuple[str, ...]) -> str:
    label = " ".join(str(row[key]) for key in (columns[0], "pass", "mode") if key in row)
    values = (row.get(column) for column in columns[1:])
    return f"  {label:44}" + "".join(f"{'' if value is None else f'{value:.3g}':>15}" for value in values)


def _broken(parts: dict[str, Any]) -> Iterator[str]:
    for name, part in parts.items():
        if part["status"] in ("failed", "time limit", "interrupted"):
            last = next((line for line in reversed(part.get("output", [])) if line.strip()), "")
            yield f"{name}: {part['status']}; {last.strip()[:160]}"
    for row in parts.get("doctor", {}).get("rows", []):
        if row["mark"] == "FAILED":
            yield f"doctor: {row['text'][:200]}"
    for row in parts.get("sanitizer", {}).get("rows", []):
        if row["status"]:
            yield f"compute-sanitizer {row['tool']}: {row['summary']}"


def _tests(parts: dict[str, Any]) -> Iterator[str]:
    failed = [row for row in parts.get("tests", {}).get("rows", []) if row["outcome"] == "failed"]
    for row in failed[:SHOWN]:
        yield f"{row['test']}: {row['error'][:120]}"
    if len(failed) > SHOWN:
        yield f"{len(failed) - SHOWN} more tests that failed"


def _measured(parts: dict[str, Any]) -> Iterator[tuple[str, Row]]:
    """The rows of parts that measure speed, with a label."""
    for name, part in parts.items():
        for row in part["rows"]:
            what = row.get("shape") or row.get("pooling") or row.get("network")
            if what is not None:
                yield " ".join(str(word) for word in (f"{name}:", what, row["pass"], row.get("mode", ""))), row


def _slow(parts: dict[str, Any]) -> Iterator[str]:
    slow = []
    for label, row in _measured(parts):
        for column, value in row.items():
            if column.startswith("times_faster") and value < 1:
                slow.append((value, f"{label}: {column.replace('_', ' ')} {value:.2f}"))
        if row.get("times_plain", 0) > (STEP if "network" in row else PLAIN):
            slow.append((1 / row["times_plain"], f"{label}: {row['times_plain']:.2f} times the plain one's time"))
        if row.get("share_of_floor", 1) < FLOOR and row["mode"] == "replay":
            slow.append((row["share_of_floor"], f"{label}: {row['share_of_floor']:.0%} of what the GPU could do"))
        if row.get("ours_mib", 0) > 1.05 * row.get("torchvision_mib", float("inf")):
            memory = row["torchvision_mib"] / row["ours_mib"]
            slow.append((memory, f"{label}: {row['ours_mib']:.0f} MiB, torchvision's {row['torchvision_mib']:.0f}"))
    yield from (line for _, line in sorted(slow)[: 2 * SHOWN])
    if len(slow) > 2 * SHOWN:
        yield f"{len(slow) - 2 * SHOWN} more that are slow or large"


def _waiting(parts: dict[str, Any]) -> Iterator[str]:
    """Calls that Python takes longer over than the GPU."""
    for name, part in parts.items():
        by_call: dict[tuple[Any, ...], Row] = {}
        for row in part["rows"]:
            if "mode" in row:
                call = (row.get("shape"), row.get("pooling"), row["pass"])
                by_call.setdefault(call, {})[row["mode"]] = row.get("ours_channels_last_ms", row.get("ours_ms"))
        times = [(call, modes["eager"], modes["replay"]) for call, modes in by_call.items() if len(modes) == 2]
        waiting = [(eager / replay, call, eager, replay) for call, eager, replay in times if eager and replay]
        for factor, call, eager, replay in sorted(waiting, key=lambda found: -found[0])[:SHOWN]:
            if factor > WAITING:
                what = " ".join(word for word in call if word)
                yield f"{name}: {what}: {eager:.3f} ms from Python, {replay:.3f} as a CUDA graph: the GPU waits"


def _fused(parts: dict[str, Any]) -> Iterator[str]:
    """Up to how many channels the fused kernel was faster on every map, by dtype, beside what is expected: 128."""
    rows = parts.get("fused", {}).get("rows", [])
    for dtype in dict.fromkeys(row["dtype"] for row in rows):
        most = 0
        for channels in sorted({row["channels"] for row in rows if row["dtype"] == dtype}):
            gains = [row["times_faster"] for row in rows if (row["dtype"], row["channels"]) == (dtype, channels)]
            if min(gains) < GAIN:
                break
            most = channels
        expected = 0 if dtype == "torch.float32" else 128
        if most != expected:
            yield f"fused, {dtype}: faster up to {most} channels, expected {expected}: see PRIOR in ops/cuda/choice.py"
