"""The command predict: a trained network on anybody's images."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from dcnlab.cli.output import Allow, Overrides
from dcnlab.config.value_checks import choose, within
from dcnlab.io.errors import ConfigError, DataError
from dcnlab.io.text import say


def predict(
    run: Annotated[str, typer.Argument(metavar="RUN")],
    images: Annotated[Path, typer.Argument(metavar="IMAGE|FOLDER")],
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder.")] = Path("predictions"),
    pictures: Annotated[bool, typer.Option("--pictures/--no-pictures", help="Draw what was found.")] = True,
    score: Annotated[float, typer.Option(help="Minimum score of the boxes that are drawn.")] = 0.3,
    device: Annotated[str | None, typer.Option(help="cpu or cuda", show_default="what there is")] = None,
    allow: Allow = None,
) -> None:
    """Predict for an image or a folder of images; needs no data set; prints the new folder last.

    Boxes come as detections.json in COCO's result form, segmentations as label PNGs, classes as classes.csv. An image
    that cannot be read is named on standard error and left out; the exit status is 2 where none can.
    """
    from dcnlab.training import prediction_files, run_search
    from dcnlab.training.run_folder import RunFolder

    folder = RunFolder(run_search.find(run)).path
    within("--score", score, 0, 1)
    if device is not None:
        choose("--device", device, ("cpu", "cuda"))
    root, paths = prediction_files.images_of(images)
    from dcnlab.training.loading import load
    from dcnlab.training.prediction import predictions

    left_out: list[str] = []

    def leave_out(name: str, error: DataError) -> None:
        left_out.append(name)
        say(f"left out: {error}", file=sys.stderr)

    with prediction_files.new_folder(out) as temporary:
        task = load(folder, overrides or [], allow or (), device)
        files = prediction_files.PredictionFiles(temporary, root, pictures, score)
        try:
            for prediction in predictions(task, _with_bar(paths), leave_out):
                files.add(prediction)
        finally:
            files.close()
        if len(left_out) == len(paths):
            raise ConfigError(f"none of the {len(paths)} images of {images} can be read")
    if left_out:
        say(f"note: {len(left_out)} of {len(paths)} images were left out", file=sys.stderr)
    if files.empty_pictures:
        shown = f"{files.empty_pictures} of {len(paths)} pictures show no box, as none scores {score:g}"
        say(f"note: {shown}; --score draws those of a lower score, and detections.json holds all", file=sys.stderr)
    say(out)


def _with_bar(paths: Sequence[str]) -> Iterator[str]:
    """The paths, with a bar on standard error where that is a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    yield from track(paths, "images", console=console, disable=not console.is_terminal)
