"""Draws the paper's figures for any run: sampling locations, RoI bins, offsets, effective dilation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from dcnlab.ablations.analysis.figure_rois import has_deformable_pooling, pooled_rois
from dcnlab.ablations.analysis.figure_subjects import Subject, load
from dcnlab.ablations.analysis.figure_units import units_of
from dcnlab.ablations.analysis.tracing import DeformedLayer, observe_image, stack, trace
from dcnlab.ablations.plots import image_panels as drawing
from dcnlab.ablations.plots import style
from dcnlab.config.value_checks import choose
from dcnlab.io.atomic import write_whole
from dcnlab.io.errors import ConfigError
from dcnlab.io.text import nearest
from dcnlab.metrics.effective_dilation import effective_dilation
from dcnlab.training.run import restore

KINDS = ("sampling", "rois", "offsets", "dilation")
ENDINGS = ("png", "pdf", "svg")
MOST_LAYERS = 6
"""Stacked layers that can be drawn; six have 9^6 sampling locations, half a million."""
_ROIS = 3


@dataclass
class Drawn:
    """What was written."""

    paths: list[Path]
    notes: list[str]


def draw(
    folder: Path,
    image: str,
    out: Path | None = None,
    kind: str = "sampling",
    at: Sequence[str] = (),
    layers: int = 3,
    score: float = 0.5,
    overrides: Sequence[str] = (),
) -> Drawn:
    """Draw how a run's deformable layers sample an image.

    Args:
        folder: the run folder.
        image: a file, or `test:N`, image N of the run's test split, from 0.
        out: the file, by whose ending it is PNG, PDF or SVG; of several kinds each goes to NAME-KIND. None is
            IMAGE-KIND.png in the run's folder `figures`.
        kind: one of `KINDS`, or all of them that the network can give.
        at: `x,y` of units to look from, pixels of the image's file; none: a small object, a large one and the
            background, as annotated, or else as found.
        layers: number of the last stacked deformable layers.
        score: minimum score of the detections and of the RoIs that are shown.
        overrides: key=value upon the run's config.

    Raises:
        ConfigError: no such run, image, position or kind, or the network has nothing deformable of that kind; one line.
    """
    choose("--kind", kind, (*KINDS, "all"))
    if not 1 <= layers <= MOST_LAYERS:
        raise ConfigError(f"--layers is {layers}; it must be from 1 to {MOST_LAYERS}")
    if not 0 <= score <= 1:
        raise ConfigError(f"--score is {score:g}; it must be from 0 to 1")
    ending = "png" if out is None else _ending(out)
    config, parts = restore(folder, list(overrides))
    subject = load(config, parts, image, score)
    model: Any = parts.task.model
    try:
        chain = stack(observe_image(model, subject.image), layers)
    except ConfigError as error:
        raise ConfigError(f"{folder}: {error}") from error
    pooling = has_deformable_pooling(model)
    able = [name for name in KINDS if (pooling if name == "rois" else bool(chain))]
    kinds = able if kind == "all" else [kind]
    if not able or kind not in (*able, "all"):
        lacking = "no deformable RoI pooling" if kind == "rois" else "no deformable layer"
        raise ConfigError(
            f"--kind is {kind!r}, and {folder} has {lacking}: its model.deform_layers is "
            f"{config.model.deform_layers}, model.deform_kind {config.model.deform_kind}, "
            f"model.deform_pooling {str(config.model.deform_pooling).lower()}"
        )
    drawn = Drawn([], [])
    if subject.source == "found":
        drawn.notes.append(f"{image} has no annotated object: the network's own output is shown")
    for name in kinds:
        if name == "sampling":
            figure = _sampling(subject, chain, at, parts.data.classes)
        elif name == "rois":
            figure = _rois(subject, model, score, parts.data.classes, drawn.notes)
        else:
            figure = (_offsets if name == "offsets" else _dilation)(subject, chain)
        path = _place(folder, subject, out, name, several=kind == "all")
        write_whole(path, style.encode(figure, ending))
        drawn.paths.append(path)
    return drawn


def _ending(out: Path) -> str:
    ending = out.suffix.removeprefix(".").lower()
    if ending not in ENDINGS:
        near = nearest(ending, ENDINGS) or "png"
        named = out.with_suffix(f".{near}") if out.name else Path(f"figure.{near}")
        raise ConfigError(f"--out is {str(out)!r}; figures end in .png, .pdf or .svg; nearest: {named}")
    if not out.parent.is_dir():
        raise ConfigError(f"--out is {str(out)!r}, and there is no folder {str(out.parent)!r}")
    return ending


def _place(folder: Path, subject: Subject, out: Path | None, kind: str, several: bool) -> Path:
    if out is not None:
        return out.with_name(f"{out.stem}-{kind}{out.suffix}") if several else out
    (folder / "figures").mkdir(exist_ok=True)
    return folder / "figures" / f"{subject.name}-{kind}.png"


def _sampling(subject: Subject, chain: Sequence[DeformedLayer], at: Sequence[str], classes: Sequence[str]) -> Figure:
    units = []
    for unit in units_of(subject, chain[0], at, classes):
        place = chain[0].output.to_image(torch.tensor(unit.place, dtype=torch.float64))
        points = trace(chain, unit.place)[-1].cpu().numpy()
        units.append((unit.title, (float(place[0]), float(place[1])), points))
    return drawing.sampling(subject.picture, units, [layer.name for layer in chain])


def _rois(subject: Subject, model: Any, score: float, classes: Sequence[str], notes: list[str]) -> Figure:
    rois = pooled_rois(model, subject.image, score, _ROIS)
    if not rois:
        raise ConfigError(f"{subject.name}: the network proposes no RoI")
    unsure = ""
    if rois[0].score < score:
        notes.append(f"no RoI scores {score:g} or more; the best one is shown")
        unsure = f"no RoI of score {score:g} or more; "
    panels = [
        (f"{unsure}{classes[roi.label - 1]}, score {roi.score:.2f}", roi.box.double().numpy(), roi.bins.numpy())
        for roi in rois
    ]
    return drawing.rois(subject.picture, panels)


def _offsets(subject: Subject, chain: Sequence[DeformedLayer]) -> Figure:
    fields = []
    for layer in chain[::-1]:
        height, width = layer.offset.shape[-2:]
        mean = layer.offset[0].double().unflatten(0, (-1, 2)).mean(0).permute(1, 2, 0)
        shifts = mean * mean.new_tensor(layer.input.scale)
        units = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"), -1).double()
        fields.append((layer.name, layer.output.to_image(units).numpy(), shifts.cpu().numpy()))
    return drawing.arrows(subject.picture, fields)


def _dilation(subject: Subject, chain: Sequence[DeformedLayer]) -> Figure:
    fields = []
    for layer in chain[::-1]:
        measured = effective_dilation(layer.offset, layer.kernel_size, layer.dilation)[0].double().cpu().numpy()
        values = np.pad(measured / (sum(layer.dilation) / len(layer.dilation)), 1, "edge")  # up to the image's edges
        corners = torch.tensor([[-1.5, -1.5], [measured.shape[0] + 0.5, measured.shape[1] + 0.5]], dtype=torch.float64)
        (top, left), (bottom, right) = layer.output.to_image(corners).tolist()
        plain = "x".join(map(str, dict.fromkeys(layer.dilation)))
        fields.append((f"{layer.name}, dilation {plain}", (left, right, bottom, top), values))
    return drawing.heat(subject.picture, fields, subject.boxes.numpy().astype(np.float64))
