"""Commands that look into networks and runs: complexity, recipe, dilation, robustness, visualize."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from dcnlab.cli import values
from dcnlab.cli.output import Overrides, note_repeated, print_blocks, print_notes
from dcnlab.config.value_checks import choose
from dcnlab.io.errors import ConfigError
from dcnlab.io.text import say, visible


def count_cost(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[EXPERIMENT.yaml]... [KEY=VALUE]...", show_default=False, callback=note_repeated),
    ] = None,
    size: Annotated[str | None, typer.Option(metavar="HxW", help="Image, pixels.", show_default="data's")] = None,
    timed: Annotated[bool, typer.Option("--time/--no-time", help="Take forward times.")] = True,
    device: Annotated[str | None, typer.Option(help="cpu or cuda", show_default="what there is")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Passes that times are the median of.")] = 3,
    form: Annotated[str, typer.Option("--format", help="rich, markdown, latex, csv or json")] = "rich",
) -> None:
    """Parameters, multiply-adds, forward and total time, plain and deformable, next to the paper's; needs no data.

    Without an experiment: the ten networks of the paper's table 4.
    """
    from dcnlab.ablations.tables import render
    from dcnlab.config.overrides import is_override

    choose("--format", form, render.FORMATS)
    if device is not None:
        choose("--device", device, ("cpu", "cuda"))
    from dcnlab.ablations.analysis import complexity, timing

    pixels = values.size("--size", size)
    experiments = [word for word in words or [] if not is_override(word)]
    overrides = [word for word in words or [] if is_override(word)]
    networks = complexity.assemble(
        experiments or complexity.PAPER,
        overrides,
        pixels,
        (device or timing.usual_device()) if timed else None,
        repeats,
        say=lambda line: say(line, sys.stderr, flush=True),
    )
    print_blocks(networks.rows, complexity.blocks(networks), form)
    print_notes(networks.notes)


def print_recipe(
    experiment: Annotated[str | None, typer.Argument(metavar="[EXPERIMENT.yaml]", show_default=False)] = None,
    overrides: Overrides = None,
    form: Annotated[str, typer.Option("--format", help="rich, markdown, latex, csv or json")] = "rich",
) -> None:
    """The whole recipe of an experiment on one screen; needs no data.

    Without an experiment: the rates of the paper's experiments, the authors', detectron2's and ours, in one form.
    """
    from dcnlab.ablations.tables import render

    choose("--format", form, render.FORMATS)
    from dcnlab.ablations import recipe
    from dcnlab.ablations.tables import block, recipe_rates

    if experiment is None:
        header, lines = recipe_rates.HEADER, recipe_rates.table()
    else:
        header, lines = ["what", "how"], [list(line) for line in recipe.lines(recipe.load(experiment, overrides or []))]
        if form == "rich":
            say("\n".join(f"{name:<11} {visible(text)}" for name, text in lines), block=True)
            return
    print_blocks([dict(zip(header, line, strict=True)) for line in lines], [block.Block("", header, lines)], form)


def measure_dilation(
    run: Annotated[str, typer.Argument(metavar="RUN")],
    overrides: Overrides = None,
    images: Annotated[int | None, typer.Option(min=1, help="Test images.", show_default="all")] = None,
    areas: Annotated[
        str | None,
        typer.Option(help="Boxes' areas in pixels of the file, original, or resized.", show_default="original"),
    ] = None,
    sides: Annotated[
        str | None,
        typer.Option(metavar="LOW,HIGH", help="Of the squares between small, medium, large.", show_default="96,224"),
    ] = None,
    claims: Annotated[
        bool, typer.Option("--claims", help="Test the paper's claims on a measured run instead.")
    ] = False,
    more: Annotated[
        list[str] | None, typer.Option("--with", metavar="RUN", help="Of another seed, measured; for --claims.")
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(metavar="FIGURE.png", help="Draw dilation over box size; for --claims.")
    ] = None,
    form: Annotated[str, typer.Option("--format", help="rich, markdown, latex, csv or json")] = "rich",
) -> None:
    """Effective dilation by layer and object size, next to the paper's; writes RUN/dilation.json, dilation_boxes.npz.

    With --claims: tests with intervals of whether it grows with box size and depth, and where background lies.
    """
    from dcnlab.ablations.tables import render
    from dcnlab.training import run_search

    choose("--format", form, render.FORMATS)
    measuring = {"an override": overrides, "--images": images, "--areas": areas, "--sides": sides}
    testing = {"--with": more, "--figure": figure}
    for option, value in (measuring if claims else testing).items():
        if value:
            takes = "tests what was measured; it does not take" if claims else "is missing; only it takes"
            raise ConfigError(f"--claims {takes} {option}, here {_shown(value)}")
    folder = run_search.find(run)
    if claims:
        from dcnlab.ablations.analysis import dilation_evidence

        evidence = dilation_evidence.assemble([folder, *map(run_search.find, more or [])], figure)
        print_blocks(evidence.rows, evidence.blocks, form)
        print_notes(evidence.notes)
        return
    from dcnlab.ablations.analysis import effective_dilation

    limits = values.sides("--sides", sides or "96,224")
    measured = effective_dilation.measure(folder, overrides or [], images, areas or "original", limits)
    rows, blocks = effective_dilation.table(measured)
    print_blocks(rows, blocks, form)
    print_notes(measured.notes)


def _shown(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def measure_robustness(
    words: Annotated[list[str], typer.Argument(metavar="SWEEP.yaml | RUN... [KEY=VALUE]...", show_default=False)],
    runs: Annotated[list[Path] | None, typer.Option("--runs", metavar="DIR...", show_default="runs")] = None,
    angles: Annotated[str, typer.Option(help="Rotations, degrees.")] = "0,15,30,45,60,90,120,150,180",
    scales: Annotated[str, typer.Option(help="Magnifications.")] = "0.5,0.6,0.75,1,1.25,1.5,2",
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for robustness.json and .png.")] = None,
    form: Annotated[str, typer.Option("--format", help="rich, markdown, latex, csv or json")] = "rich",
) -> None:
    """Accuracy of finished classifiers on test images rotated and scaled; saves the curves in each run folder."""
    from dcnlab.ablations.tables import render
    from dcnlab.config.overrides import is_override

    choose("--format", form, render.FORMATS)
    from dcnlab.ablations.analysis import robustness, robustness_table
    from dcnlab.io.atomic import write_whole

    names = [word for word in words if not is_override(word) or Path(word).is_dir()]
    curves = robustness.assemble(
        names,
        runs or [Path("runs")],
        values.numbers("--angles", angles, -360, 360),
        values.numbers("--scales", scales, 0.1, 10),
        [word for word in words if word not in names],
        say=lambda line: say(line, sys.stderr, flush=True),
    )
    print_blocks(curves.rows, robustness_table.blocks(curves), form)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_whole(out / robustness.FILE, render.render(curves.rows, [], "json") + "\n")
        write_whole(out / robustness.FIGURE, robustness_table.draw(curves))
    print_notes(curves.notes)


def visualize(
    run: Annotated[str, typer.Argument(metavar="RUN")],
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="A file, or test:N of the run's test split, from 0")],
    overrides: Overrides = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FIGURE", help="PNG, PDF or SVG by its ending.", show_default="RUN/figures/IMAGE-KIND.png"
        ),
    ] = None,
    kind: Annotated[str, typer.Option(help="sampling, rois, offsets, dilation or all")] = "sampling",
    at: Annotated[
        list[str] | None,
        typer.Option(metavar="X,Y", help="Units to look from, pixels of the file.", show_default="on objects and off"),
    ] = None,
    layers: Annotated[int, typer.Option(metavar="N", help="The last N stacked deformable layers.")] = 3,
    score: Annotated[float, typer.Option(help="Minimum score of detections and RoIs.")] = 0.5,
) -> None:
    """Draw sampling points, shifted RoI bins, offsets or effective dilation over an image; prints the files."""
    from dcnlab.training import run_search

    folder = run_search.find(run)
    from dcnlab.ablations.analysis import figures

    drawn = figures.draw(folder, image, out, kind, at or [], layers, score, overrides or [])
    print_notes(drawn.notes)
    for path in drawn.paths:
        say(path)
