"""Commands that train, score and export one run: fit, evaluate, resume, export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from dcnlab.cli import values
from dcnlab.cli.output import Allow, Overrides, print_notes, print_once
from dcnlab.config.validation import choose
from dcnlab.io.text import say, visible


def fit(
    experiment: Annotated[str, typer.Argument(metavar="EXPERIMENT.yaml")],
    args: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE | ARGS.json]...", show_default=False)] = None,
    allow: Allow = None,
) -> None:
    """Train, then score; prints the run folder last."""
    from dcnlab.config.load import load_experiment
    from dcnlab.config.validation import check_paths

    config = load_experiment(experiment, args or [], allow=allow or ())  # before the seconds that torch takes to import
    check_paths(config)
    from dcnlab.training import run as training

    print_once(visible(training.fit(config)))


def evaluate(
    run: Annotated[str, typer.Argument(metavar="RUN")],
    overrides: Overrides = None,
    allow: Allow = None,
    form: Annotated[str, typer.Option("--format", help="text or json")] = "text",
) -> None:
    """Score a run's checkpoint again."""
    from dcnlab.training import run_folder

    choose("--format", form, ("text", "json"))
    folder = run_folder.find(run)
    from dcnlab.training import run as training

    metrics = training.evaluate(folder, overrides or [], allow or ())
    lines = [f"{visible(key)} {value:.2f}" for key, value in metrics.items()]
    if lines or form == "json":
        print_once(json.dumps(metrics) if form == "json" else "\n".join(lines))


def resume(
    run: Annotated[str, typer.Argument(metavar="RUN")], overrides: Overrides = None, allow: Allow = None
) -> None:
    """Go on where a run stopped, or with trainer.max_steps=N train a finished one longer.

    Key=value may change how long, where and how visibly it trains, and how it is scored; results.json records it. A
    learning rate schedule whose length follows max_steps (cosine, milestones below 1) is from there on that of N steps.
    """
    from dcnlab.training import run_folder

    folder = run_folder.find(run)
    from dcnlab.training import run as training

    print_once(visible(training.resume(folder, overrides or [], allow or ())))


def export_weights(
    run: Annotated[str, typer.Argument(metavar="RUN")],
    form: Annotated[str, typer.Option("--format", help="safetensors, torch-export or onnx")],
    out: Annotated[Path | None, typer.Option(help="The file to write.", show_default="export.* in the run")] = None,
    size: Annotated[str | None, typer.Option(metavar="HxW", help="Image, pixels.", show_default="data's")] = None,
    allow: Allow = None,
) -> None:
    """Write a run's last weights for other programs: its state dict, or its network as a graph; prints the file."""
    from dcnlab.training import run_folder

    folder, pixels = run_folder.find(run), values.size("--size", size)
    from dcnlab.training import export

    written = export.export(folder, form, out, pixels, allow or ())
    print_notes(written.notes)
    say(written.path)
