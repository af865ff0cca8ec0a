"""Parameters, multiply-adds and times of plain and deformable networks, with the paper's table 4."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from dcnlab.ablations.analysis.complexity_subjects import Subject, subject_of
from dcnlab.ablations.analysis.network_cost import measure
from dcnlab.ablations.numbers import number
from dcnlab.ablations.tables import paper
from dcnlab.ablations.tables.block import Block
from dcnlab.config.schema import Config
from dcnlab.io.errors import ConfigError

PAPER = (
    "segmentation/deeplab_cityscapes",
    "segmentation/deeplab_voc",
    "detection/class_aware_rpn_voc",
    "detection/faster_rcnn_voc",
    "detection/rfcn_voc",
)
"""The experiments of table 4: ten networks."""

_PAPER_GPU = "Titan X (Maxwell)"


@dataclass
class Complexity:
    """Counts and times, at full precision."""

    rows: list[dict[str, Any]]
    """Two of each experiment. Seconds, multiply-adds and parameters as numbers; None: unknown."""
    timing: str | None
    """Device and method of the forward times; None without times."""
    notes: list[str]


def assemble(
    experiments: Sequence[str],
    overrides: Sequence[str] = (),
    size: tuple[int, int] | None = None,
    device: str | None = None,
    repeats: int = 3,
    say: Callable[[str], None] = lambda line: None,
) -> Complexity:
    """Count, and time, the plain and the deformable network of each experiment.

    The plain network has no deformable layer or pooling. The deformable one has the experiment's `deform_layers`, or
    the paper's 3 if that is 0, and deformable RoI pooling if the network pools RoIs.

    Args:
        experiments: paths or packaged names of experiment files.
        overrides: key=value, for all of them.
        size: height and width of the image, pixels; None: an image as the experiment tests on.
        device: cpu or cuda to take forward times on; None takes none.
        repeats: forward passes that the median is of, after one to warm up.
        say: takes a line before each network that is timed.

    Raises:
        ConfigError: an experiment cannot be built, or only its data could tell its classes or image size.
    """
    if not experiments:
        raise ConfigError("complexity: no experiment file named, such as segmentation/deeplab_voc")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device is 'cuda', and there is no GPU that torch can use; nearest: cpu")
    notes: list[str] = []
    subjects = [subject_of(experiment, overrides, size, notes) for experiment in experiments]
    rows: list[dict[str, Any]] = []
    for subject in subjects:
        plain: int | None = None
        for deformable in (False, True):
            row = _row(subject, deformable, device, repeats, say)
            row["params_difference"] = None if plain is None else row["params"] - plain
            plain = row["params"] if plain is None else plain
            rows.append(row)
    return Complexity(rows, None if device is None else _timing(device, repeats), notes + _notes(rows, device))


def _row(
    subject: Subject, deformable: bool, device: str | None, repeats: int, say: Callable[[str], None]
) -> dict[str, Any]:
    model = subject.config.model
    model = replace(
        model,
        deform_layers=(model.deform_layers or paper.DEFORM_LAYERS) if deformable else 0,
        deform_pooling=deformable and model.name in paper.POOLING_MODELS,
    )
    config = replace(subject.config, model=model)
    kind, (height, width) = "deformable" if deformable else "plain", subject.size
    if device is not None:
        say(f"{config.name}, {kind}: {1 + repeats} forward passes of {height}x{width} pixels on {device}")
    cost = measure(config, subject, device, repeats)
    theirs = _paper(config)
    millions = theirs["params"]
    params = None if millions is None else round(millions * 1e6)
    return {
        "experiment": config.name,
        "network": kind,
        "deform_layers": model.deform_layers,
        "deform_pooling": model.deform_pooling,
        "classes": len(subject.classes),
        "height": height,
        "width": width,
        "params": cost["params"],
        "params_difference": None,
        "params_without_rpn": cost["params_without_rpn"],
        "paper_params": params,
        "paper_params_difference": None if params is None else cost["params"] - params,
        "macs": cost["macs"],
        "proposals": cost["proposals"],
        "device": device,
        "network_seconds": cost["network_seconds"],
        "total_seconds": cost["total_seconds"],
        "paper_network_seconds": theirs["net_forward"],
        "paper_total_seconds": theirs["runtime"],
        "paper_unconfirmed": " ".join(theirs["unconfirmed"]),
    }


def _paper(config: Config) -> dict[str, Any]:
    """The paper's values for a network; None for those that it does not state.

    The row of table 4 is found by the experiment's name, without the `_voc` of a detector. The backbone must be
    ResNet-101, and the deformable layers 0 or 3, as in the paper.
    """
    name = config.name.removesuffix("_voc") if config.task == "detection" else config.name
    row = next((row for row in paper.read("table4")["rows"] if row["model"] == name), None)
    model, keys = config.model, ("params", "net_forward", "runtime")
    if row is None or model.backbone.name != paper.BACKBONE or model.deform_layers not in (0, paper.DEFORM_LAYERS):
        return dict.fromkeys(keys) | {"unconfirmed": []}
    at = int(model.deform_layers > 0)
    named = row.get("unconfirmed", [])
    unconfirmed = [key for key in keys if key in named or f"{key}[{at}]" in named]
    return {key: row[key][at] for key in keys} | {"unconfirmed": unconfirmed}


def _timing(device: str, repeats: int) -> str:
    threads = torch.get_num_threads()
    where = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {threads} thread{'s' * (threads > 1)}"
    return f"{where}, median of {repeats}"


def _notes(rows: list[dict[str, Any]], device: str | None) -> list[str]:
    notes = ["parameters count batch norms' scale and shift, frozen or not; MACs leave bilinear sampling out"]
    if any(row["params_without_rpn"] is not None for row in rows):
        notes.append("the paper's detectors took fixed proposals on VOC: its counts are nearest to ours without RPN")
    proposals = {row["proposals"] for row in rows if row["proposals"] is not None}
    if proposals:
        notes.append(f"MACs of two-stage detectors are those at {', '.join(map(str, sorted(proposals)))} proposals")
    if device is not None:
        notes.append(
            "our times: batch 1, float32, random weights, offsets at zero; total adds resizing and normalising on the "
            "CPU, and softmax and the best class at the file's size, or non-maximum suppression; no file is read"
        )
    if any(row["paper_params"] is not None for row in rows):
        notes.append(
            f"the paper's times are of a {_PAPER_GPU} at the paper's own image sizes: not to be compared with ours"
        )
    if any(row["paper_unconfirmed"] for row in rows):
        notes.append("a value of the paper with ? is unconfirmed: only one transcription of the paper has it")
    return notes


def blocks(complexity: Complexity) -> list[Block]:
    """The table for people."""
    timed, published = complexity.timing is not None, any(row["paper_params"] is not None for row in complexity.rows)
    header = ["experiment", "network", "deform_layers", "classes", "image", "parameters (M)", "to plain (M)"]
    proposing = any(row["params_without_rpn"] is not None for row in complexity.rows)
    header += ["without RPN (M)"] if proposing else []
    header += ["paper (M)", "to paper (M)", "MACs (G)"]
    header += ["network (s)", "total (s)"] if timed else []
    header += ["paper: network (s)", "paper: total (s)"]
    lines = []
    for row in complexity.rows:
        unconfirmed = row["paper_unconfirmed"].split()
        line = [row["experiment"], row["network"], str(row["deform_layers"]), str(row["classes"])]
        line.append(f"{row['height']}x{row['width']}")
        line += [_millions(row["params"], ".3f"), _millions(row["params_difference"], "+.3f")]
        line += [_millions(row["params_without_rpn"], ".3f")] if proposing else []
        line += [_millions(row["paper_params"], ".1f"), _millions(row["paper_params_difference"], "+.1f")]
        line.append(f"{row['macs'] / 1e9:.3f}")
        if timed:
            line += [f"{row['network_seconds']:.3f}", f"{row['total_seconds']:.3f}"]
        for column, key in (("paper_network_seconds", "net_forward"), ("paper_total_seconds", "runtime")):
            line.append(number(row[column], ".3f") + (" ?" if key in unconfirmed else ""))
        lines.append(line)
    caption = "Complexity of one forward pass, batch 1"
    caption += f"; times: {complexity.timing}" if timed else ""
    caption += f"; the paper's times: {_PAPER_GPU}" if published else ""
    return [Block(caption, header, lines)]


def _millions(value: int | None, form: str) -> str:
    return number(None if value is None else value / 1e6, form)
