"""`dcnlab score`: anyone's detections or segmentations, from files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dcnlab.cli.examples import epilog
from dcnlab.config.value_checks import choose
from dcnlab.io.text import say

app = typer.Typer(
    help="Score anyone's predictions: all values in percent.", epilog=epilog("score"), no_args_is_help=True
)


@app.command(epilog=epilog("score detection"))
def detection(
    detections: Annotated[
        Path,
        typer.Option(
            metavar="D.json",
            help="COCO's result form; bbox is x, y, width, height in pixels, continuous, from 0 (VOC's corners are "
            "x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1). Against a VOC folder, image_id is the file's name without its "
            "ending and category the class name.",
        ),
    ],
    annotations: Annotated[Path, typer.Option(metavar="A.json|VOCROOT", help="COCO's JSON, or a VOC-style folder.")],
    protocol: Annotated[str, typer.Option(help="coco; voc07: eleven points; voc07_exact: as fractions; voc: area")],
    split: Annotated[
        str | None, typer.Option(help="Of a VOC folder: test, or 2007/test.", show_default="all annotations")
    ] = None,
    backend: Annotated[str, typer.Option(help="Of the coco protocol: faster or pycocotools")] = "faster",
    figure: Annotated[
        Path | None, typer.Option(metavar="PR.png", help="Draw precision over recall at IoU 0.5.")
    ] = None,
    form: Annotated[str, typer.Option("--format", help="text, markdown or json")] = "text",
) -> None:
    """Average precision, whole and by class, percent (json too, in full precision)."""
    from dcnlab import score as scoring

    choose("--format", form, scoring.FORMATS)
    say(scoring.render(scoring.detection(detections, annotations, protocol, split, backend, figure), form), block=True)


@app.command(epilog=epilog("score segmentation"))
def segmentation(
    predictions: Annotated[Path, typer.Option(metavar="DIR", help="PNGs whose values are classes, grey or palette.")],
    labels: Annotated[Path, typer.Option(metavar="DIR", help="PNGs of the same names, sub-folders included.")],
    classes: Annotated[int, typer.Option(help="Number of classes: values are 0 to this less one.")],
    ignore: Annotated[int, typer.Option(help="Label of pixels that do not count.")] = 255,
    names: Annotated[Path | None, typer.Option(metavar="FILE", help="The classes' names, a line each.")] = None,
    form: Annotated[str, typer.Option("--format", help="text, markdown or json")] = "text",
) -> None:
    """Mean IoU over all pixels, pixel accuracy and the IoU of each class, percent (json too, in full precision)."""
    from dcnlab import score as scoring

    choose("--format", form, scoring.FORMATS)
    say(scoring.render(scoring.segmentation(predictions, labels, classes, ignore, names), form), block=True)
