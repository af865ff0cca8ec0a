"""Commands that train, score and export one run: fit, evaluate, resume, export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from dcnlab.cli import values
from dcnlab.cli.output import Allow, Overrides, note_repeated, print_notes, print_once
from dcnlab.config.value_checks import choose
from dcnlab.io import memory
from dcnlab.io.text import say, visible


def fit(
    experiment: Annotated[str, typer.Argument(metavar="EXPERIMENT.yaml")],
    args: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE | ARGS.json]...", show_default=False, callback=note_repeated),
    ] = None,
    allow: Allow = None,
) -> None:
    """Train, then score; prints the run folder last. Exit status 1: the test missed a metric of test.expected."""
    from dcnlab.config.load import load_experiment
    from dcnlab.config.path_checks import check_paths

    config = load_experiment(experiment, args or [], allow=allow or ())  # before the seconds that torch takes to import
    check_paths(config)
    from dcnlab.training import run as training

    memory.keep_freed_memory()
    folder = training.fit(config)
    print_once(visible(folder))
    _exit_if_missed(_expected_of(folder))


def evaluate(
    run: Annotated[str, typer.Argument(metavar="RUN")],
    overrides: Overrides = None,
    allow: Allow = None,
    form: Annotated[str, typer.Option("--format", help="text or json")] = "text",
) -> None:
    """Score a run's checkpoint again. Exit status 1: the test missed a metric of the run's test.expected."""
    from dcnlab.config.load import read_run
    from dcnlab.training import expected, run_search

    choose("--format", form, ("text", "json"))
    folder = run_search.find(run)
    from dcnlab.training import run as training

    metrics = training.evaluate(folder, overrides or [], allow or ())
    lines = [f"{visible(key)} {value:.2f}" for key, value in metrics.items()]
    if lines or form == "json":
        print_once(json.dumps(metrics) if form == "json" else "\n".join(lines))
    _exit_if_missed(expected.compare(metrics, read_run(folder, overrides or []).test.expected))


def resume(
    run: Annotated[str, typer.Argument(metavar="RUN")], overrides: Overrides = None, allow: Allow = None
) -> None:
    """Resume where a run stopped, or with trainer.max_steps=N train a finished one longer.

    Key=value may change how long, where and how visibly it trains, and how it is scored; results.json records it. A
    learning rate schedule whose length follows max_steps (cosine, milestones below 1) is from there on that of N steps.
    """
    from dcnlab.training import run_search

    folder = run_search.find(run)
    from dcnlab.training import run as training

    memory.keep_freed_memory()
    resumed = training.resume(folder, overrides or [], allow or ())
    print_once(visible(resumed))
    _exit_if_missed(_expected_of(resumed))


def export_weights(
    run: Annotated[str, typer.Argument(metavar="RUN")],
    form: Annotated[str, typer.Option("--format", help="safetensors, torch-export or onnx")],
    out: Annotated[Path | None, typer.Option(help="The file to write.", show_default="export.* in the run")] = None,
    size: Annotated[str | None, typer.Option(metavar="HxW", help="Image, pixels.", show_default="data's")] = None,
    allow: Allow = None,
) -> None:
    """Write a run's last weights for other programs: its state dict, or its network as a graph; prints the file."""
    from dcnlab.training import run_search

    folder, pixels = run_search.find(run), values.size("--size", size)
    from dcnlab.training import export

    written = export.export(folder, form, out, pixels, allow or ())
    print_notes(written.notes)
    say(written.path)


def _expected_of(folder: Path) -> dict[str, Any]:
    """The `expected` of a run's results.json."""
    from dcnlab.training.run_folder import RunFolder

    return (RunFolder(folder).read_results() or {}).get("expected") or {}


def _exit_if_missed(outcome: dict[str, Any]) -> None:
    """Exit with status 1 on rank 0 where the test missed an expected metric; other ranks exit with 0."""
    from dcnlab.training import expected
    from dcnlab.training.distributed.rank import is_rank_0
    from dcnlab.training.outcome import EXPECTED_MISSED

    if is_rank_0() and not expected.all_met(outcome):
        raise typer.Exit(EXPECTED_MISSED)


def convert_weights(
    source: Annotated[Path, typer.Argument(metavar="IN")],
    out: Annotated[Path, typer.Argument(metavar="OUT.safetensors|.pt")],
    kind: Annotated[
        str | None,
        typer.Option("--from", help="mmdet, detectron2, torchvision, caffe or mxnet", show_default="the file's"),
    ] = None,
) -> None:
    """Write a foreign ResNet's weights, such as Caffe's .caffemodel or MXNet's .params, for model.backbone.weights."""
    from dcnlab.models.convert import convert

    print_notes(convert(source, out, kind))
    say(out)
