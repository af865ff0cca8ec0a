"""The command line: parses, calls, prints."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from dcnlab.cli import score as cli_score
from dcnlab.config import values
from dcnlab.config.validation import choose
from dcnlab.io import memory
from dcnlab.io.errors import ConfigError
from dcnlab.io.text import nearest, one_line, say, show_warnings_visibly, visible
from dcnlab.training.distributed import parent_death
from dcnlab.training.outcome import Interrupted, PeerFailed

app = typer.Typer(
    help="Deformable convolutional networks: train, sweep and compare ablations.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data = typer.Typer(help="Look at what networks are trained on.", no_args_is_help=True)
app.add_typer(data, name="data")
app.add_typer(cli_score.app, name="score")

OTHERS_SECONDS = 10.0
"""That a process waits for the first one, before it speaks for itself."""

Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", show_default=False)]


def _version(asked: bool) -> None:
    if asked:
        from dcnlab.training.environment import version

        say(f"dcnlab {version('dcnlab') or 'from a checkout'}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", callback=_version)] = False,
) -> None:
    pass


@app.command()
def fit(
    experiment: Annotated[str, typer.Argument(metavar="EXPERIMENT.yaml")],
    args: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE | ARGS.json]...", show_default=False)] = None,
) -> None:
    """Train, then score; prints the run folder last."""
    from dcnlab.config.load import load_experiment
    from dcnlab.config.validation import check_paths

    config = load_experiment(experiment, args or [])  # before the seconds that torch takes to import
    check_paths(config)
    from dcnlab.training import run as runs

    _print_once(visible(runs.fit(config)))


@app.command()
def evaluate(
    run: Annotated[str, typer.Argument(metavar="RUN")],
    overrides: Overrides = None,
    form: Annotated[str, typer.Option("--format", help="text or json")] = "text",
) -> None:
    """Score a run's checkpoint again."""
    from dcnlab.training.run_folder import find

    choose("--format", form, ("text", "json"))
    folder = find(run)
    from dcnlab.training import run as runs

    metrics = runs.evaluate(folder, overrides or [])
    lines = [f"{visible(key)} {value:.2f}" for key, value in metrics.items()]
    if lines or form == "json":
        _print_once(json.dumps(metrics) if form == "json" else "\n".join(lines))


@app.command()
def resume(run: Annotated[str, typer.Argument(metavar="RUN")], overrides: Overrides = None) -> None:
    """Go on where a run stopped, or with trainer.max_steps=N train a finished one longer.

    Key=value may change how long, where and how visibly it trains, and how it is scored; results.json records it. A
    learning rate schedule whose length follows max_steps (cosine, milestones below 1) is from there on that of N steps.
    """
    from dcnlab.training.run_folder import find

    folder = find(run)
    from dcnlab.training import run as runs

    _print_once(visible(runs.resume(folder, overrides or [])))


@app.command()
def sweep(
    sweep: Annotated[str, typer.Argument(metavar="SWEEP.yaml")],
    overrides: Overrides = None,
    out: Annotated[str | None, typer.Option(help="Folder of the runs.", show_default="runs")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Trials at once.", show_default="one a GPU or core")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Start no more trials than this.")] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0, help="Start no trial that would not end in this time, going by those before.")
    ] = None,
    trial_minutes: Annotated[
        float | None, typer.Option(min=0.01, help="End a trial that runs longer; it counts as failed, and can go on.")
    ] = None,
    launcher: Annotated[str, typer.Option(help="local, or slurm: as jobs of a cluster.")] = "local",
    slurm: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="An option of sbatch for every trial: partition=NAME; any number."),
    ] = None,
) -> None:
    """Run the trials of a wandb sweep file that are missing, without a server."""
    choose("--launcher", launcher, ("local", "slurm"))
    if slurm and launcher != "slurm":
        raise ConfigError(f"--slurm {slurm[0]}: there are no jobs to give it to; state --launcher slurm")
    for option, value in (("--minutes", minutes), ("--trial-minutes", trial_minutes)):
        if value is not None and launcher == "slurm":
            raise ConfigError(f"{option} {value:g} is for trials of this machine; SLURM's own is --slurm time=MINUTES")
        if value is not None and not value < float("inf"):
            raise ConfigError(f"{option} is {value:g}; it must be a number of minutes")
    from dcnlab.ablations.sweeps import run as ablation
    from dcnlab.ablations.sweeps.local import Stopped

    try:
        status = ablation.run(sweep, out, jobs, limit, minutes, overrides or [], launcher, slurm or [], trial_minutes)
    except Stopped as stopped:
        say(f"stopped by {stopped}; the same command goes on with what is missing", file=sys.stderr)
        raise typer.Exit(128 + stopped.number) from stopped
    raise typer.Exit(status)


@app.command()
def table(
    name: Annotated[str, typer.Argument(metavar="NAME|SWEEP.yaml")],
    more: Annotated[list[str] | None, typer.Argument(metavar="[DIR | KEY=VALUE]...", show_default=False)] = None,
    runs: Annotated[list[Path] | None, typer.Option("--runs", metavar="DIR...", show_default="runs")] = None,
    wandb: Annotated[
        str | None,
        typer.Option(metavar="ENTITY/PROJECT[/SWEEP]", help="Take runs from wandb's server, in place of `runs`."),
    ] = None,
    any_code: Annotated[bool, typer.Option("--any-code", help="Let runs of different code share rows.")] = False,
    form: Annotated[str, typer.Option("--format", help="rich, markdown, latex, csv or json")] = "rich",
) -> None:
    """Compare runs: mean and spread over seeds, differences to the row `none`, beside the paper's; cost.

    NAME is that of runs, or table1, table2, table3, table5: the paper's, from whatever runs there are.
    """
    from dcnlab.ablations.tables import table as tables

    choose("--format", form, tables.FORMATS)
    words = more or []
    overrides = [word for word in words if "=" in word and not Path(word).is_dir()]
    roots = [*(runs or []), *(Path(word) for word in words if word not in overrides)]
    if not roots and wandb is None:
        roots = [Path("runs")]
    found = tables.assemble(name, roots, overrides, any_code, wandb)
    if form == "rich":
        tables.show(found)
    else:
        say(tables.render(found, form), block=True)
    for note in found.notes:
        say(f"note: {note}", file=sys.stderr)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR")],
    out: Annotated[Path | None, typer.Option(metavar="FILE.html", show_default="DIR/report.html")] = None,
    any_code: Annotated[bool, typer.Option("--any-code", help="Let runs of different code share rows.")] = False,
) -> None:
    """Write one HTML page on all runs in a folder, which needs no network: tables, curves, costs; prints the file."""
    from dcnlab.ablations.report import page

    say(page.write(folder, out, any_code))


@app.command()
def complexity(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[EXPERIMENT.yaml]... [KEY=VALUE]...", show_default=False)
    ] = None,
    size: Annotated[str | None, typer.Option(metavar="HxW", help="Image, pixels.", show_default="data's")] = None,
    timed: Annotated[bool, typer.Option("--time/--no-time", help="Take forward times.")] = True,
    device: Annotated[str | None, typer.Option(help="cpu or cuda", show_default="what there is")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Passes that times are the median of.")] = 3,
    form: Annotated[str, typer.Option("--format", help="rich, markdown, latex, csv or json")] = "rich",
) -> None:
    """Parameters, multiply-adds, forward and total time, plain and deformable, beside the paper's; needs no data.

    Without an experiment: the ten networks of the paper's table 4.
    """
    from dcnlab.ablations.tables import render
    from dcnlab.config.overrides import is_override

    choose("--format", form, render.FORMATS)
    if device is not None:
        choose("--device", device, ("cpu", "cuda"))
    from dcnlab.ablations.analysis import complexity as costs
    from dcnlab.ablations.analysis import timing

    pixels = values.size("--size", size)
    experiments = [word for word in words or [] if not is_override(word)]
    overrides = [word for word in words or [] if is_override(word)]
    found = costs.assemble(
        experiments or costs.PAPER,
        overrides,
        pixels,
        (device or timing.usual_device()) if timed else None,
        repeats,
        say=lambda line: say(line, sys.stderr, flush=True),
    )
    if form == "rich":
        render.show(costs.blocks(found))
    else:
        say(render.render(found.rows, costs.blocks(found), form), block=True)
    for note in found.notes:
        say(f"note: {note}", file=sys.stderr)


@app.command()
def dilation(
    run: Annotated[str, typer.Argument(metavar="RUN")],
    overrides: Overrides = None,
    images: Annotated[int | None, typer.Option(min=1, help="Test images.", show_default="all")] = None,
    areas: Annotated[str, typer.Option(help="Boxes' areas in pixels of the file, original, or resized")] = "original",
    sides: Annotated[str, typer.Option(metavar="LOW,HIGH", help="Of the squares between small, medium, large")] = (
        "96,224"
    ),
    form: Annotated[str, typer.Option("--format", help="rich, markdown, latex, csv or json")] = "rich",
) -> None:
    """Effective dilation by layer and object size, beside the paper's; also writes RUN/dilation.json."""
    from dcnlab.ablations.tables import render
    from dcnlab.training.run_folder import find

    choose("--format", form, render.FORMATS)
    folder = find(run)
    from dcnlab.ablations.analysis import effective_dilation as measuring

    limits = measuring.parse_sides(sides)
    found = measuring.measure(folder, overrides or [], images, areas, limits)
    rows, blocks = measuring.table(found)
    if form == "rich":
        render.show(blocks)
    else:
        say(render.render(rows, blocks, form), block=True)
    for note in found.notes:
        say(f"note: {note}", file=sys.stderr)


@app.command()
def robustness(
    words: Annotated[list[str], typer.Argument(metavar="SWEEP.yaml | RUN... [KEY=VALUE]...", show_default=False)],
    runs: Annotated[list[Path] | None, typer.Option("--runs", metavar="DIR...", show_default="runs")] = None,
    angles: Annotated[str, typer.Option(help="Rotations, degrees.")] = "0,15,30,45,60,90,120,150,180",
    scales: Annotated[str, typer.Option(help="Magnifications.")] = "0.5,0.6,0.75,1,1.25,1.5,2",
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for robustness.json and .png.")] = None,
    form: Annotated[str, typer.Option("--format", help="rich, markdown, latex, csv or json")] = "rich",
) -> None:
    """Accuracy of finished classifiers on test images turned and magnified; keeps it in each run folder."""
    from dcnlab.ablations.tables import render
    from dcnlab.config.overrides import is_override

    choose("--format", form, render.FORMATS)
    from dcnlab.ablations.analysis import robustness as curves
    from dcnlab.io.atomic import write_whole

    names = [word for word in words if not is_override(word) or Path(word).is_dir()]
    found = curves.assemble(
        names,
        runs or [Path("runs")],
        values.numbers("--angles", angles, -360, 360),
        values.numbers("--scales", scales, 0.1, 10),
        [word for word in words if word not in names],
        say=lambda line: say(line, sys.stderr, flush=True),
    )
    if form == "rich":
        render.show(curves.blocks(found))
    else:
        say(render.render(found.rows, curves.blocks(found), form), block=True)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_whole(out / curves.FILE, render.render(found.rows, [], "json") + "\n")
        write_whole(out / curves.FIGURE, curves.draw(found))
    for note in found.notes:
        say(f"note: {note}", file=sys.stderr)


@app.command()
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
    score: Annotated[float, typer.Option(help="Least score of detections and RoIs.")] = 0.5,
) -> None:
    """Draw sampling points, shifted RoI bins, offsets or effective dilation over an image; prints the files."""
    from dcnlab.training.run_folder import find

    folder = find(run)
    from dcnlab.ablations.analysis import figures

    drawn = figures.draw(folder, image, out, kind, at or [], layers, score, overrides or [])
    for note in drawn.notes:
        say(f"note: {note}", file=sys.stderr)
    for path in drawn.paths:
        say(path)


@app.command()
def export(
    run: Annotated[str, typer.Argument(metavar="RUN")],
    form: Annotated[str, typer.Option("--format", help="safetensors, torch-export or onnx")],
    out: Annotated[Path | None, typer.Option(help="The file to write.", show_default="export.* in the run")] = None,
    size: Annotated[str | None, typer.Option(metavar="HxW", help="Image, pixels.", show_default="data's")] = None,
) -> None:
    """Write a run's last weights for other programs: its state dict, or its network as a graph; prints the file."""
    from dcnlab.training.run_folder import find

    folder, pixels = find(run), values.size("--size", size)
    from dcnlab.training import export as exporting

    found = exporting.export(folder, form, out, pixels)
    for note in found.notes:
        say(f"note: {note}", file=sys.stderr)
    say(found.path)


@app.command()
def doctor() -> None:
    """Versions, GPUs, which operators work and kernels compile, what is missing for what."""
    from dcnlab.cli import doctor as checks

    raise typer.Exit(checks.run())


@data.command()
def preview(
    out: Annotated[Path, typer.Option(help="The PNG to write.")] = Path("preview.png"),
    split: Annotated[str, typer.Option(help="train, val or test")] = "train",
    task: Annotated[str, typer.Option(help="classification, detection or segmentation")] = "classification",
    rows: Annotated[int, typer.Option(min=1)] = 4,
    columns: Annotated[int, typer.Option(min=1)] = 8,
) -> None:
    """Write a contact sheet of the embedded data set."""
    choose("--split", split, ("train", "val", "test"))
    choose("--task", task, ("classification", "detection", "segmentation"))
    from dcnlab.data.digits.preview import contact_sheet
    from dcnlab.data.digits.scenes import DigitScenes

    scenes = DigitScenes(split, digits=1 if task == "classification" else 4)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.touch()  # says which path it is that cannot be written, as the writer of PNGs does not
    say(contact_sheet(scenes, scenes.classes, out, rows, columns))


def _print_once(text: object) -> None:
    """Print lines, from the first of the processes that made the run together."""
    from dcnlab.training.distributed.rank import is_rank_0

    if is_rank_0():
        say(text, block=True)


def main() -> None:
    """Run the command line: exit status 2 and one line for what the user can mend, a traceback for our own bugs."""
    # Before torch is imported: what its store warns of when one of several processes has ended, the run says itself.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    parent_death.hold()
    show_warnings_visibly()
    usage_error = typer.BadParameter.__mro__[1]  # typer brings its own click, or takes the installed one
    try:
        status = app(prog_name="dcnlab", standalone_mode=False)
    except ConfigError as error:
        _fail(str(error))
    except PeerFailed as error:
        _fail(str(error), 1)
    except OSError as error:  # a path that cannot be read or written, a full disk
        where = f"{error.filename}: " if error.filename is not None else ""
        _fail(f"{where}{error.strerror or error}")
    except (MemoryError, RuntimeError) as error:
        if not memory.is_out(error):
            raise
        said = str(error).partition("\n")[0]
        _fail(f"there is not enough memory{f' ({said})' if said else ''}; smaller images or batches need less")
    except typer.Abort:
        sys.exit(130)
    except usage_error as error:  # type: ignore[misc]
        _fail(_usage(error))
    except Interrupted as error:
        say(error.advice(), file=sys.stderr)
        sys.exit(130)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:  # a bug, whose traceback is to come
        if _is_rank():
            _fail_as_rank(f"{type(error).__name__}: {one_line(error)}", 1, lambda: None)
        raise
    sys.exit(status)


def _usage(error: BaseException) -> str:
    """What is wrong with the command line, and the nearest right word."""
    text = " ".join(error.format_message().split())  # type: ignore[attr-defined]
    if not text:  # a group without a command has printed its help
        sys.exit(0)
    context = getattr(error, "ctx", None)
    words = text.split("'")
    if context is not None and text.startswith("No such command") and len(words) > 1:
        near = nearest(words[1], context.command.list_commands(context))
        text = f"No such command {words[1]!r}" + (f"; nearest: {near}" if near else "")
    path = context.command_path if context is not None else "dcnlab"
    return f"{text.rstrip('.')}; see `{path} --help`"


def _fail(text: str, status: int = 2) -> None:
    line = " ".join(text.split())

    def tell() -> None:
        say(f"dcnlab: {line}", file=sys.stderr, flush=True)

    if _is_rank():
        _fail_as_rank(line, status, tell)
    else:
        tell()
    sys.exit(status)


def _is_rank() -> bool:
    """Whether a launcher may have started this process with others."""
    return any(name in os.environ for name in ("RANK", "NODE_RANK", "LOCAL_RANK", "SLURM_STEP_ID"))


def _fail_as_rank(line: str, status: int, tell: Callable[[], None]) -> None:
    """Say it once for all ranks of a run, and have none of them wait for this one."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        if os.environ.get("RANK", "0") != "0":  # rank 0 most likely says the same, and torchrun ends the others then
            time.sleep(OTHERS_SECONDS)
        tell()
        return
    from dcnlab.training.distributed import early_failure

    early_failure.report(line, status, tell)
