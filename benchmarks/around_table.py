"""The table of what surrounds a network: waiting for data, scoring, start-up."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from result_files import NAMES, Goals, Result, drawn, markdown, measured_on, not_yet

WAITING, IMPORT_SECONDS, HELP_SECONDS = 0.05, 0.3, 1.0


def feeding(result: Result) -> list[list[str]]:
    """Waiting for batches; decoding and resizing."""
    lines, goals = [], Goals()
    for row in result["rows"]:
        if row["what"] == "waiting":
            share = goals.cell(100 * row["share_waiting"], "{:.1f}", most=100 * WAITING)
            what = f"DeepLab, ResNet-18, training: time waiting for data ({row['workers']} loader processes)"
            lines.append([what, f"{share}%", "", f"below {100 * WAITING:g}%"])
        else:
            figures = [f"{row[f'{kind}_images_per_second']:.0f} images/s" for kind in ("ours", "torchvision")]
            what = f"{row['images']} {row['photographs'].partition('/')[0]} photographs decoded and resized, one thread"
            lines.append([what, figures[0], f"torchvision: {figures[1]}", ""])
    return lines


def scoring(result: Result) -> list[list[str]]:
    """Ours beside the tool alone."""
    seconds = {row["work"]: row["seconds"] for row in result["rows"]}
    alone = seconds["faster-coco-eval alone"]
    what = f"COCO scoring, {result['settings']['scored_images']:,} images of 100 detections"
    ours = Goals().cell(seconds["dcnlab coco"], "{:.2f}", most=alone)
    return [[what, f"{ours} s", f"faster-coco-eval: {alone:.2f} s", "at most as long"]]


def startup(result: Result) -> list[list[str]]:
    """Imports, the command line, and the first call."""
    rows, goals = {row["command"]: row for row in result["rows"]}, Goals()
    torch, ops, asked = (rows[name]["seconds"] for name in ("import torch", "import dcnlab.ops", "dcnlab --help"))
    more = goals.cell(ops - torch, "{:+.2f}", most=IMPORT_SECONDS)
    help_seconds = goals.cell(asked, "{:.2f}", most=HELP_SECONDS)
    lines = [
        ["`import dcnlab.ops`", f"{more} s", f"`import torch`: {torch:.2f} s", f"at most {IMPORT_SECONDS:+g} s"],
        ["`dcnlab --help`", f"{help_seconds} s", "", f"below {HELP_SECONDS:g} s"],
    ]
    for name, row in rows.items():
        if "empty_cache_seconds" in row:
            first = f"{row['empty_cache_seconds']:.2f} s"
            beside = f"cached on disk: {row['cached_seconds']:.2f} s; second call: {row['second_seconds']:.3f} s"
            lines.append([f"{name}: numba imported and loops compiled", first, beside, ""])
    return lines


def around() -> str:
    """What surrounds the network: feeding, scoring, start-up."""
    lines, notes = [], []
    for name, text in AROUND.items():
        lines += drawn(name, text) or []
        where = drawn(name, partial(measured_on, name=name))
        notes.append(not_yet(name) if where is None else f"{NAMES[name]}: {where}")
    return "\n\n".join([*([markdown(["", "ours", "beside", "goal"], lines)] if lines else []), "\n".join(notes)])


AROUND: dict[str, Callable[[Result], list[list[str]]]] = {"feeding": feeding, "scoring": scoring, "startup": startup}
