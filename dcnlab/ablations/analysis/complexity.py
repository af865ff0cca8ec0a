"""Parameters, multiply-adds and times of plain and deformable networks, with the paper's table 4."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from dcnlab.ablations.analysis import timing
from dcnlab.ablations.numbers import number
from dcnlab.ablations.tables import paper
from dcnlab.ablations.tables.render import Block
from dcnlab.config import packaged
from dcnlab.config.keys import flatten
from dcnlab.config.load import extends_chain, load_experiment
from dcnlab.config.names import data_set as data_set_named
from dcnlab.config.overrides import parse_override
from dcnlab.config.schema import Config, DataConfig
from dcnlab.config.validation import check_paths
from dcnlab.io.errors import ConfigError, DataError
from dcnlab.io.text import one_line
from dcnlab.models.class_aware_rpn import ClassAwareRPN
from dcnlab.models.counting import count_macs, count_parameters
from dcnlab.models.image_batch import pad_images
from dcnlab.models.two_stage import TwoStageDetector
from dcnlab.training.build_data import data_module
from dcnlab.training.build_network import checked_task_module

PAPER = (
    "segmentation/deeplab_cityscapes",
    "segmentation/deeplab_voc",
    "detection/class_aware_rpn_voc",
    "detection/faster_rcnn_voc",
    "detection/rfcn_voc",
)
"""The experiments of table 4: ten networks."""

_NOWHERE = "not-needed"
"""Stands for the data set's folder where an experiment states none: only its classes and image size are asked for."""
_COCO_CLASSES = 80
_PAPER_GPU = "Titan X (Maxwell)"


@dataclass
class Complexity:
    """What was counted and timed, at full precision."""

    rows: list[dict[str, Any]]
    """Two of each experiment. Seconds, multiply-adds and parameters as numbers; None for what is not known."""
    timing: str | None
    """Where and how forward times were taken; None where none were."""
    notes: list[str]


@dataclass
class _Subject:
    """One experiment, ready to be built."""

    config: Config
    classes: list[str]
    size: tuple[int, int]
    """Height and width of what the network sees, pixels."""
    file_size: tuple[int, int]
    """And of the image before it is resized."""


def assemble(
    experiments: Sequence[str],
    overrides: Sequence[str] = (),
    size: tuple[int, int] | None = None,
    device: str | None = None,
    repeats: int = 3,
    say: Callable[[str], None] = lambda line: None,
) -> Complexity:
    """Count, and time, the plain and the deformable network of each experiment.

    Plain is without any deformable layer or pooling; deformable has the experiment's own `deform_layers`, or the
    paper's 3 where it has none, and deformable RoI pooling where the network pools RoIs.

    Args:
        experiments: paths or packaged names of experiment files.
        overrides: key=value, for all of them.
        size: height and width of the image, pixels; None: an image as the experiment tests on.
        device: cpu or cuda to take forward times on; None takes none.
        repeats: forward passes that the median is of, after one to warm up.
        say: takes a line before each network that is timed.

    Raises:
        ConfigError: an experiment that cannot be built, or whose classes or image size only data could tell.
    """
    if not experiments:
        raise ConfigError("complexity: no experiment file named, such as segmentation/deeplab_voc")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device is 'cuda', and there is no GPU that torch can use; nearest: cpu")
    notes: list[str] = []
    subjects = [_subject(experiment, overrides, size, notes) for experiment in experiments]
    rows: list[dict[str, Any]] = []
    for subject in subjects:
        plain: int | None = None
        for deformable in (False, True):
            row = _row(subject, deformable, device, repeats, say)
            row["params_difference"] = None if plain is None else row["params"] - plain
            plain = row["params"] if plain is None else plain
            rows.append(row)
    return Complexity(rows, None if device is None else _timing(device, repeats), notes + _notes(rows, device))


def _subject(experiment: str, overrides: Sequence[str], size: tuple[int, int] | None, notes: list[str]) -> _Subject:
    layers = [layer for _, layer in extends_chain(packaged.find("experiments", experiment))]
    stated = [dict(flatten(layer)) for layer in layers]
    stated.append(dict(parse_override(override) for override in overrides))
    located = any(layer.get("data.root") is not None for layer in stated)
    config = load_experiment(experiment, [*overrides, *([] if located else [f"data.root={_NOWHERE}"])])
    model = config.model
    config = replace(config, model=replace(model, backbone=replace(model.backbone, weights="none")))
    if located:
        check_paths(config)
    if config.trainer.threads is not None:
        torch.set_num_threads(config.trainer.threads)
    classes = _classes(config, located)
    if not located and config.data.classes is None and config.data.name != "digits":
        notes.append(f"{config.name}: data.root is null; counted with the {len(classes)} classes of {config.data.name}")
    return _Subject(config, classes, *((size, size) if size else _sizes(config)))


def _classes(config: Config, located: bool) -> list[str]:
    """The classes that a run would have: those stated, else the files' where there are files, else the data set's."""
    data = config.data
    if data.name == "digits" or (located and data.classes is None):
        try:
            return list(data_module(config).classes)
        except (DataError, OSError) as error:
            raise ConfigError(one_line(error)) from error
    if data.classes is not None:
        return data.classes
    own = _own_classes(data, config.task)
    if own is None:
        raise ConfigError(
            f"{config.name}: data.classes is null, and only the files of an {data.name} tell its classes; "
            "give data.root=FOLDER or data.classes=[...]"
        )
    return own


def _own_classes(data: DataConfig, task: str) -> list[str] | None:
    from dcnlab.data.detection import voc as voc_detection
    from dcnlab.data.segmentation import camvid, cityscapes
    from dcnlab.data.segmentation import voc as voc_segmentation

    if data.name == "coco":
        return [str(number) for number in range(_COCO_CLASSES)]
    voc = voc_detection.VOC_CLASSES if task == "detection" else voc_segmentation.CLASSES
    known = {"voc": voc, "cityscapes": tuple(cityscapes.VALUES), "camvid": camvid.CLASSES}
    return list(known[data.name]) if data.name in known else None


def _sizes(config: Config) -> tuple[tuple[int, int], tuple[int, int]]:
    """The size at which a usual image of the data set comes to the network in a test, and that of its file."""
    from dcnlab.data.resize import resized

    data = config.data
    data_set = data_set_named(data.name)
    if data_set.is_square:
        return (data.image_size, data.image_size), (data.image_size, data.image_size)
    if data_set.usual_size is None:
        raise ConfigError(f"{config.name}: images of {data.name} have no usual size; give one: --size HxW")
    height, width = data_set.usual_size
    shorter = data.shorter_side or min(height, width)
    return resized(height, width, shorter, data.longer_side or shorter * max(height, width)), (height, width)


def _row(
    subject: _Subject, deformable: bool, device: str | None, repeats: int, say: Callable[[str], None]
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
    found = _measure(config, subject, device, repeats)
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
        "params": found["params"],
        "params_difference": None,
        "params_without_rpn": found["params_without_rpn"],
        "paper_params": params,
        "paper_params_difference": None if params is None else found["params"] - params,
        "macs": found["macs"],
        "proposals": found["proposals"],
        "device": device,
        "network_seconds": found["network_seconds"],
        "total_seconds": found["total_seconds"],
        "paper_network_seconds": theirs["net_forward"],
        "paper_total_seconds": theirs["runtime"],
        "paper_unconfirmed": " ".join(theirs["unconfirmed"]),
    }


def _measure(config: Config, subject: _Subject, device: str | None, repeats: int) -> dict[str, Any]:
    with torch.device("meta"):  # shapes without numbers: counted at once, whatever the size
        network = _network(config, subject.classes)
    params = count_parameters(network)
    two_stage = isinstance(network, TwoStageDetector)
    real = network
    if two_stage or device is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            real = _network(config, subject.classes)
    # A two-stage detector's head has no autocast without numbers, and which level it pools from depends on them.
    counted = real if two_stage else network
    place = "cpu" if two_stage else "meta"
    macs = count_macs(_Counted(counted), torch.zeros(1, 3, *subject.size, device=place))
    times = (None, None) if device is None else timing.seconds(real, subject.size, subject.file_size, device, repeats)
    proposals = network.rpn.settings.proposals if isinstance(network, TwoStageDetector) else None
    return {
        "params": params,
        "params_without_rpn": params - count_parameters(network.rpn) if isinstance(network, TwoStageDetector) else None,
        "macs": macs,
        "proposals": proposals,
        "network_seconds": times[0],
        "total_seconds": times[1],
    }


def _network(config: Config, classes: list[str]) -> nn.Module:
    model: Any = checked_task_module(config, classes).model
    return model.eval()


class _Counted(nn.Module):
    """All that a network computes for one image; a two-stage detector's head at all the proposals that it may have."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> None:
        network = self.network
        if isinstance(network, ClassAwareRPN):
            network.predict(pad_images(list(images), network.stride).tensors)
        elif isinstance(network, TwoStageDetector):
            maps = network.maps(pad_images(list(images), network.stride).tensors)
            network.propose(maps)
            whole = images.new_tensor([0, 0, images.shape[-1], images.shape[-2]])
            network.classify(maps, [whole.repeat(network.rpn.settings.proposals, 1)])
        else:
            network(images)


def _paper(config: Config) -> dict[str, Any]:
    """The paper's figures for a network, None where it has none.

    Its table 4 is told by the experiment's name, a detector's without `_voc`; the backbone must be ResNet-101, and the
    deformable layers 0 or 3, as there.
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
        notes.append("a figure of the paper with ? stands in one transcription of it alone, unconfirmed")
    return notes


def blocks(found: Complexity) -> list[Block]:
    """Header and lines as people read them."""
    timed, published = found.timing is not None, any(row["paper_params"] is not None for row in found.rows)
    header = ["experiment", "network", "deform_layers", "classes", "image", "parameters (M)", "to plain (M)"]
    proposing = any(row["params_without_rpn"] is not None for row in found.rows)
    header += ["without RPN (M)"] if proposing else []
    header += ["paper (M)", "to paper (M)", "MACs (G)"]
    header += ["network (s)", "total (s)"] if timed else []
    header += ["paper: network (s)", "paper: total (s)"]
    lines = []
    for row in found.rows:
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
    caption += f"; times: {found.timing}" if timed else ""
    caption += f"; the paper's times: {_PAPER_GPU}" if published else ""
    return [Block(caption, header, lines)]


def _millions(value: int | None, form: str) -> str:
    return number(None if value is None else value / 1e6, form)
