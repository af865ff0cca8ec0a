"""Tables of benchmarks/results/*_cpu.json for README.md and docs/, as Markdown, with the goals and what missed them.

    python benchmarks/tables.py operators   one of: summary, operators, depthwise, roi_pooling, networks, growth, around

A file that is not there yet is one line in the page; one that cannot be read is one line on stderr, and exit status 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from around_table import around
from result_files import NETWORKS, VERSIONS, Goals, Result, Unreadable, listed, markdown, measured_on, section
from summary_table import summary

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


def operators(result: Result) -> str:
    """Layers of the paper and of ResNet."""
    goals = Goals()
    table = _layers_table(result, goals, "3x3 layer, float32", "", lambda row: PLAIN.get(row["channels"]))
    return f"""{table}

Memory is the share of torchvision's; "times plain" our time over the plain convolution's; "both" forward and backward.
Goals: {FASTER["forward"]:g} and {FASTER["both"]:g} times faster than torchvision, less memory, and at most \
{listed(f"{times:g}" for times in PLAIN.values())} times plain at {listed(map(str, PLAIN))} channels. {goals.line()}
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
    return markdown(head, lines)


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
    return f"""{markdown(head, lines)}

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
    return f"""{markdown(head, lines)}

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

{markdown(["slope on log axes", *columns.values()], lines)}

One is growth in proportion. RoI pooling's peer is roi_align, which pools without shifts.
{measured_on(result, "growth", VERSIONS)}"""


_UNITS = {"ms": "time", "mib": "memory"}
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
