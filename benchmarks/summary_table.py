"""README's short table: our time and memory compared with torchvision's."""

from __future__ import annotations

from functools import partial

from result_files import NETWORKS, Result, drawn, markdown, measured_on, not_yet


def summary() -> str:
    """README's short table: ours and torchvision's operator, each line from one benchmark."""
    parts = {"operators": _layers, "networks": _steps, "roi_pooling": _poolings}
    lines = [line for name, text in parts.items() for line in drawn(name, text) or []]
    notes = [drawn(name, partial(measured_on, name=name, packages=("torch", "torchvision"))) for name in parts]
    missing = [not_yet(name) for name, note in zip(parts, notes, strict=True) if note is None]
    machines = {note.rpartition("; ")[0] for note in notes if note is not None}
    table = markdown(["float32, CPU", "dcnlab", "memory"], lines) if lines else ""
    return "\n\n".join(filter(None, [table, "\n".join([*sorted(machines), *missing])]))


def _layers(result: Result) -> list[list[str]]:
    lines = []
    for kind, text in {"forward": "forward", "both": "forward and backward"}.items():
        rows = [row for row in result["rows"] if row["pass"] == kind]
        faster = [row["times_faster_than_torchvision"] for row in rows]
        memory = [row["ours_mib"] / row["torchvision_mib"] for row in rows]
        what = f"3x3 deformable layer, {text}, {len(rows)} shapes"
        speed = f"{_range(faster, '.1f')} times faster than torchvision's"
        lines.append([what, speed, f"{_range(memory, '.2f')} of torchvision's"])
    return lines


def _steps(result: Result) -> list[list[str]]:
    backbone = result["settings"]["backbone"].replace("resnet", "ResNet-")
    return [
        [
            f"{NETWORKS[row['network']]}, {backbone}, training step",
            f"{row['ours_ms']:,.0f} ms; torchvision's operator in it: {row['torchvision_ms']:,.0f} ms",
            f"{row['ours_mib'] / row['torchvision_mib']:.2f} of torchvision's",
        ]
        for row in result["rows"]
        if row["pass"] == "training"
    ]


def _poolings(result: Result) -> list[list[str]]:
    rows = [row for row in result["rows"] if row["pass"] == "both"]
    faster = [row["times_faster_than_torchvision"] for row in rows]
    memory = [row["ours_mib"] / row["torchvision_mib"] for row in rows]
    what = "deformable RoI pooling, forward and backward"
    peers = "roi_align and ps_roi_align, which shift no bins"
    return [[what, f"{_range(faster, '.1f')} times faster than {peers}", f"{_range(memory, '.2f')} of theirs"]]


def _range(values: list[float], form: str) -> str:
    return f"{min(values):{form}} to {max(values):{form}}"
