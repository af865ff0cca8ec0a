"""Tables of benchmarks/results/*_cpu.json for README.md and docs/, as Markdown, with the goals and what missed them.

    python benchmarks/tables.py operators   one of: summary, operators, depthwise, roi_pooling, networks, growth, around

A file that is not there yet is one line in the page; one that cannot be read is one line on stderr, and exit status 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from tabulate import tabulate

RESULTS = Path(__file__).resolve().parent / "results"
FIGURE = "images/growth_cpu.png"
"""As a page in docs/ names it."""
FASTER = {"forward": 2.5, "both": 6.0}
"""Least times faster than torchvision's operator, by pass."""
PLAIN = {512: 2.0, 256: 3.0, 128: 4.0}
"""Most times the plain convolution's time, by channels."""
DEPTHWISE = 10.0
"""The same of a layer with as many groups as channels."""
SLOWER = 0.6
"""Most that a deformable network may cost beyond the plain one."""
WAITING, IMPORT_SECONDS, HELP_SECONDS = 0.05, 0.3, 1.0
VERSIONS = ("torch", "torchvision", "numba")
LISTED = 4
"""Most measurements to name that were left out."""
NETWORKS = {"deeplab": "DeepLab", "rfcn": "R-FCN"}

Result = dict[str, Any]
Text = TypeVar("Text")


class Unreadable(Exception):
    """A file holds something else than its benchmark writes; the message is one line."""


def path_of(name: str) -> str:
    """A result's file as the pages name it."""
    return f"benchmarks/results/{name}_cpu.json"


def load(name: str) -> Result | None:
    """A benchmark's result; null where it has not been measured.

    Raises:
        Unreadable: the file is not such a result.
    """
    try:
        found = json.loads((RESULTS / f"{name}_cpu.json").read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        why = str(error).partition("\n")[0]
        raise Unreadable(f"{path_of(name)} cannot be read: {why}; make bench writes it anew") from None
    if not isinstance(found, dict) or found.get("schema") != 1 or not found.get("rows"):
        raise Unreadable(f"{path_of(name)} is not a result of schema 1 with rows; make bench writes it anew")
    return found


def drawn(name: str, text: Callable[[Result], Text]) -> Text | None:
    """What `text` makes of a benchmark's result; null where it has not been measured.

    Raises:
        Unreadable: the result lacks something, or holds something of another kind.
    """
    found = load(name)
    try:
        return None if found is None else text(found)
    except KeyError as error:
        raise Unreadable(f"{path_of(name)} lacks {error}; make bench writes it anew") from None
    except (AttributeError, TypeError, ValueError, ZeroDivisionError) as error:
        raise Unreadable(f"{path_of(name)} holds what is not a result: {error}; make bench writes it anew") from None


def section(name: str, text: Callable[[Result], str]) -> str:
    """A part of the page, or a line that it has not been measured yet."""
    return drawn(name, text) or _not_yet(name)


def _not_yet(name: str) -> str:
    return f"{NAMES[name]}: not measured yet; `make bench` writes `{path_of(name)}`."


class Goals:
    """Puts figures beside their goals, and counts."""

    def __init__(self) -> None:
        self.asked = self.missed = 0

    def cell(self, value: float | None, form: str, most: float | None = None, least: float | None = None) -> str:
        """The figure; bold, closer and with its goal in brackets where it missed it. Null is an empty cell."""
        if value is None:
            return ""
        if most is None and least is None:
            return form.format(value)
        self.asked += 1
        if (most is None or value <= most) and (least is None or value >= least):
            return form.format(value)
        self.missed += 1
        goal = f"≥ {least:g}" if most is None else f"≤ {most:g}"
        return f"**{value:.3g}** ({goal})"

    def line(self) -> str:
        """How many were met."""
        met = f"{self.asked - self.missed} of {self.asked} figures meet their goals"
        return f"{met}; bold ones miss those in brackets." if self.missed else f"{met}."


def measured_on(result: Result, name: str, packages: Iterable[str] = ()) -> str:
    """The machine, the day, the versions and the file, and what had to be left out."""
    machine, left_out = result["machine"], result["settings"].get("left_out")
    threads = f"{machine['threads']} thread{'s' if machine['threads'] != 1 else ''}"
    versions = ", ".join(f"{package} {machine[package]}" for package in packages)
    line = f"{machine['device']}, {threads}, {machine['date']}{', ' + versions if versions else ''}; `{path_of(name)}`."
    if not left_out:
        return line
    names = ", ".join(left_out) if len(left_out) <= LISTED else f"{len(left_out)} measurements"
    return f"{line} Left out for lack of time: {names}."


def operators(result: Result) -> str:
    """Layers of the paper and of ResNet."""
    goals = Goals()
    table = _layers_table(result, goals, "3x3 layer, float32", "", lambda row: PLAIN.get(row["channels"]))
    return f"""{table}

Memory is the share of torchvision's; "times plain" our time over the plain convolution's; "both" forward and backward.
Goals: {FASTER["forward"]:g} and {FASTER["both"]:g} times faster than torchvision, less memory, and at most \
{_listed(f"{times:g}" for times in PLAIN.values())} times plain at {_listed(map(str, PLAIN))} channels. {goals.line()}
{measured_on(result, "operators", VERSIONS)}"""


def depthwise(result: Result) -> str:
    """Layers with a group for each channel."""
    goals = Goals()
    name = "{kernel}x{kernel}, "
    table = _layers_table(result, goals, "depthwise layer, float32", name, lambda row: DEPTHWISE)
    return f"""{table}

Columns as above; the goal is at most {DEPTHWISE:g} times plain. {goals.line()}
{measured_on(result, "depthwise", VERSIONS)}"""


def _layers_table(result: Result, goals: Goals, title: str, name: str, most: Callable[[Result], float | None]) -> str:
    """Both passes of a layer in a row, beside torchvision's operator and the plain convolution.

    Args:
        result: of operators_cpu.py.
        goals: count the values.
        title: of the first column.
        name: begins a layer's name; a format of its row.
        most: times the plain convolution's time that are the goal, by row.
    """
    passes: dict[str, dict[str, Result]] = {}
    for row in result["rows"]:
        passes.setdefault(row["shape"], {})[row["pass"]] = row
    lines = []
    for both in passes.values():
        of = next(iter(both.values()))
        dilation = f", dilation {of['dilation']}" if of["dilation"] > 1 else ""
        size = f"{of['channels']} channels, {of['height']}x{of['width']}{dilation}"
        line = [name.format(**of) + size, str(of["batch"])]
        for kind in FASTER:
            row = both.get(kind, {})
            memory = row["ours_mib"] / row["torchvision_mib"] if row.get("ours_mib") is not None else None
            line += [
                goals.cell(row["times_faster_than_torchvision"] if row else None, "{:.1f}", least=FASTER[kind]),
                goals.cell(row["times_plain"] if row else None, "{:.1f}", most=most(of)),
                goals.cell(memory, "{:.2f}", most=1),
            ]
        lines.append(line)
    head = [title, "batch"]
    head += [
        f"{kind}: {what}" for kind in FASTER for what in ("times faster than torchvision", "times plain", "memory")
    ]
    return _table(head, lines)


def roi_pooling(result: Result) -> str:
    """Both passes of a pooling in a row, beside torchvision's unshifted one."""
    passes: dict[str, dict[str, Result]] = {}
    for row in result["rows"]:
        passes.setdefault(row["pooling"], {})[row["pass"]] = row
    lines = []
    for both in passes.values():
        of = next(iter(both.values()))
        for ours, name in (("ours", "deform_ps_roi_pool"), ("ours_aligned", "deform_roi_pool")):
            if f"{ours}_ms" not in of:
                continue
            groups = f", {of['group']}x{of['group']} groups" if of["group"] > 1 else ""
            line = [f"`{name}`, {of['channels']} channels{groups}", "ps_roi_align" if groups else "roi_align"]
            for kind in FASTER:
                row = both.get(kind)
                faster = f"{ours.replace('ours', 'times_faster')}_than_torchvision"
                line += [f"{row[faster]:.1f}" if row else ""]
                with_memory = row and f"{ours}_mib" in row
                line += [f"{row[f'{ours}_mib'] / row['torchvision_mib']:.2f}" if row and with_memory else ""]
            lines.append(line)
    head = ["float32, 300 boxes, 7x7 bins of 4x4 samples", "torchvision's peer"]
    head += [f"{kind}: {what}" for kind in FASTER for what in ("times faster", "memory")]
    return f"""{_table(head, lines)}

The peers pool the same boxes without shifts and return no gradient of any; memory is the share of theirs.
{measured_on(result, "roi_pooling", VERSIONS)}"""


def networks(result: Result) -> str:
    """Plain, deformable, and deformable with torchvision's operator."""
    goals, lines = Goals(), []
    settings = result["settings"]
    with_memory = all("ours_mib" in row for row in result["rows"])
    for row in result["rows"]:
        step = "training step" if row["pass"] == "training" else row["pass"]
        more, peer = row["times_plain"] - 1, row["torchvision_times_plain"] - 1
        line = [f"{NETWORKS[row['network']]}, {step}", f"{row['plain_ms']:,.0f} ms"]
        line += [f"{row['ours_ms']:,.0f} ms ({goals.cell(100 * more, '{:+.0f}', most=100 * SLOWER)}%)"]
        line += [f"{row['torchvision_ms']:,.0f} ms ({100 * peer:+.0f}%)", f"{row['images_per_second']:.2f}"]
        line += [f"{row[f'{kind}_mib']:,.0f}" for kind in ("plain", "ours", "torchvision") if with_memory]
        lines.append(line)
    name = settings["backbone"].replace("resnet", "ResNet-")
    head = [f"{name}, {settings['size']}, batch 1", "plain", "deformable", "with torchvision's operator", "images/s"]
    head += ["MiB: plain", "deformable", "torchvision's"] if with_memory else []
    memory = ", MiB what a step takes above the network" if with_memory else ""
    return f"""{_table(head, lines)}

Three deformable layers, and deformable RoI pooling in R-FCN; images/s of ours{memory}.
Goal: at most {100 * SLOWER:g}% more time than the plain network. {goals.line()}
{measured_on(result, "networks", VERSIONS)}"""


def growth(result: Result) -> str:
    """The figure, and the slopes."""
    import growth as figure  # torch takes seconds to import

    slopes = figure.slopes(result["rows"])
    columns = {f"{kind}_{unit}": f"{kind}, {what}" for unit, what in _UNITS.items() for kind in figure.KINDS}
    columns = {key: text for key, text in columns.items() if any(key in line for line in slopes)}
    lines = [[line["axis"], *(f"{line[key]:.2f}" if key in line else "" for key in columns)] for line in slopes]
    return f"""![Time and memory against batch, pixels, channels, offset groups and RoIs]({FIGURE})

{_table(["slope on log axes", *columns.values()], lines)}

One is growth in proportion. RoI pooling's peer is roi_align, which pools without shifts.
{measured_on(result, "growth", VERSIONS)}"""


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
        notes.append(_not_yet(name) if where is None else f"{NAMES[name]}: {where}")
    return "\n\n".join([*([_table(["", "ours", "beside", "goal"], lines)] if lines else []), "\n".join(notes)])


def summary() -> str:
    """README's short table: ours and torchvision's operator, each line from one benchmark."""
    parts = {"operators": _layers, "networks": _steps, "roi_pooling": _poolings}
    lines = [line for name, text in parts.items() for line in drawn(name, text) or []]
    notes = [drawn(name, partial(measured_on, name=name, packages=("torch", "torchvision"))) for name in parts]
    missing = [_not_yet(name) for name, note in zip(parts, notes, strict=True) if note is None]
    machines = {note.rpartition("; ")[0] for note in notes if note is not None}
    table = _table(["float32, CPU", "dcnlab", "memory"], lines) if lines else ""
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


def _table(head: list[str], lines: list[list[str]]) -> str:
    return tabulate(lines, head, tablefmt="github", disable_numparse=True)


def _listed(words: Iterable[str]) -> str:
    *rest, last = words
    return f"{', '.join(rest)} and {last}"


_UNITS = {"ms": "time", "mib": "memory"}
NAMES = {
    "operators": "Operators",
    "depthwise": "Depthwise",
    "roi_pooling": "RoI pooling",
    "networks": "Networks",
    "growth": "Growth",
    "feeding": "Data",
    "scoring": "Scoring",
    "startup": "Start-up",
}
AROUND: dict[str, Callable[[Result], list[list[str]]]] = {"feeding": feeding, "scoring": scoring, "startup": startup}
TABLES: dict[str, Callable[[], str]] = {
    "summary": summary,
    "operators": lambda: section("operators", operators),
    "depthwise": lambda: section("depthwise", depthwise),
    "roi_pooling": lambda: section("roi_pooling", roi_pooling),
    "networks": lambda: section("networks", networks),
    "growth": lambda: section("growth", growth),
    "around": around,
}


def main() -> None:
    """Parse and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=tuple(TABLES))
    try:
        print(TABLES[parser.parse_args().table]())
    except Unreadable as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
