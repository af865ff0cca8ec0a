"""The command data preview: what an experiment trains on, drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dcnlab.cli.output import note_repeated
from dcnlab.config.value_checks import choose
from dcnlab.io.errors import ConfigError
from dcnlab.io.text import say, visible


def write_preview(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[EXPERIMENT.yaml] [KEY=VALUE]...", show_default=False, callback=note_repeated),
    ] = None,
    out: Annotated[Path, typer.Option(help="The PNG to write.")] = Path("preview.png"),
    split: Annotated[str, typer.Option(help="train, val or test")] = "train",
    task: Annotated[
        str | None, typer.Option(help="classification, detection or segmentation; without an experiment")
    ] = None,
    rows: Annotated[int, typer.Option(min=1)] = 4,
    columns: Annotated[int | None, typer.Option(min=1, show_default="4; embedded data: 8")] = None,
) -> None:
    """Draw an experiment's images with their boxes, masks or class names, as the network sees them; trains nothing.

    Without an experiment: scenes of the embedded data set. For example:
    dcnlab data preview detection/own data.root=MINE --split test
    """
    choose("--split", split, ("train", "val", "test"))
    if out.is_dir() or out.suffix.lower() != ".png":
        wanted = out / "preview.png" if out.is_dir() else out.with_suffix(".png")
        raise ConfigError(f"--out is {visible(out)}; it must be a file that ends in .png, such as {wanted}")
    if words:
        if task is not None:
            raise ConfigError(f"--task is {task}; the experiment {words[0]} states the task")
        _preview_experiment(words, split, out, rows, columns or 4)
        return
    task = task or "classification"
    choose("--task", task, ("classification", "detection", "segmentation"))
    from dcnlab.data.digits.scenes import DigitScenes
    from dcnlab.tasks.scene_sheet import contact_sheet

    scenes = DigitScenes(split, digits=1 if task == "classification" else 4)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.touch()  # its error names the path; the PNG writer's does not
    say(contact_sheet(scenes, scenes.classes, out, rows, columns or 8))


def _preview_experiment(words: list[str], split: str, out: Path, rows: int, columns: int) -> None:
    from dcnlab.config.load import load_experiment

    config = load_experiment(words[0], words[1:])
    from dcnlab.training import data_preview
    from dcnlab.training.loggers import console

    console.quiet()
    data_preview.write(config, split, out, rows, columns)
    say(out)
