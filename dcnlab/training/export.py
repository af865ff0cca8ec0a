"""Exports a run's network: weights as safetensors, or the whole network as a graph of torch.export or ONNX."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn

from dcnlab.config import names, outside
from dcnlab.config.load import load_run, to_yaml
from dcnlab.config.schema import Config
from dcnlab.config.value_checks import choose
from dcnlab.io.atomic import write_whole
from dcnlab.io.errors import ConfigError, DataError
from dcnlab.io.text import one_line
from dcnlab.training import build_data, build_network, checkpoint_file
from dcnlab.training.run_folder import RunFolder

FORMATS = {"safetensors": ".safetensors", "torch-export": ".pt2", "onnx": ".onnx"}
"""Formats, and the suffixes of their files."""

OPSET = 19
"""ONNX's first operator set with DeformConv."""

_PREFIX = "model."
_CLASS_LAYERS = {"classification": ("fc.weight", "backbone.fc.weight"), "segmentation": ("classify.weight",)}
"""Weights of the layer with an output for each class."""


@dataclass
class Exported:
    """What was written."""

    path: Path
    notes: list[str]
    """What the file lacks, and why."""


def export(
    folder: Path,
    form: str,
    out: Path | None = None,
    size: tuple[int, int] | None = None,
    allow: Sequence[outside.Allowed] = (),
) -> Exported:
    """Write a run's last checkpoint, finished or not, as a file for other programs; needs no data.

    A graph takes float32 images (N, 3, H, W), normalised, of one size, any number at a time; it
    gives logits, as the network does in evaluation. torch-export's wants `import dcnlab.ops` before
    torch.export.load. Every file carries the run's name, task, classes where they are known, and config.

    Args:
        folder: the run folder.
        form: one of `FORMATS`.
        out: the file; None is `export` and the format's ending in the run folder.
        size: height and width of a graph's images; None is the experiment's, where it states one.
        allow: classes from outside that may be imported, see `outside.admit`.

    Raises:
        ConfigError: no checkpoint, no such format, a network that the format cannot hold, or no such folder; one line.
    """
    choose("--format", form, FORMATS)
    path = _file_to_write(folder, form, out)
    config = load_run(folder, allow=allow)
    config.model.backbone.weights = "none"  # the checkpoint holds them
    if form != "safetensors" and config.task == "detection":
        raise ConfigError(
            f"--format is {form!r}, which has no detectors: how many boxes they find depends on the image, and "
            "deformable RoI pooling is not an ONNX operator; --format safetensors takes their weights"
        )
    state = _state(folder)
    notes: list[str] = []
    metadata = _metadata(config, notes)
    if form == "safetensors":
        # Contiguous: channels-last is how torch computes, and does not belong into the file.
        written = safetensors_bytes({key: value.contiguous() for key, value in state.items()}, metadata)
    else:
        network = _network(config, state)
        image = torch.zeros(2, 3, *(size or _size(config)))  # with a single image the exporter would fix the batch size
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # messages of the exporters to their developers
            written = (_torch_export if form == "torch-export" else _onnx)(network, image, metadata)
    try:
        write_whole(path, written)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
    return Exported(path, notes)


def translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """The deformable operator as ONNX's DeformConv, for torch.onnx.export's `custom_translation_table`.

    With it any float64, float32 or float16 network with :class:`dcnlab.nn.DeformConv2d` exports, at opset 19 or later.
    DeformConv has one type for all of its inputs, and float16 would round the sampling locations. So a float16 layer
    becomes a DeformConv in float32 between two casts: as our operator, and in every runtime.

    torch.onnx.export refuses an opset below 19, which has no DeformConv, and bfloat16, for which onnxruntime 1.32 has
    no convolutions. It writes nothing then; its ConversionError has our line first under "Exception summary". For
    float64 the file is right, but onnxruntime's CPU has DeformConv in float64 and no plain convolution.

    Raises:
        ConfigError: onnxscript is not installed.
    """
    try:
        from onnxscript import evaluator, ir, opset19
    except ImportError as error:
        raise ConfigError("ONNX needs packages that are not there: pip install 'dcnlab[onnx]'") from error

    def deform_conv2d(
        input: Any,
        offset: Any,
        weight: Any,
        bias: Any,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        mask: Any,
    ) -> Any:
        recorder: Any = evaluator.default()  # torch sets it, with the opset that it exports to
        target = recorder.opset.version
        if target < OPSET:
            raise ConfigError(f"opset_version is {target}, which has no DeformConv; nearest: {OPSET}")
        if input.dtype not in (ir.DataType.DOUBLE, ir.DataType.FLOAT, ir.DataType.FLOAT16):
            raise ConfigError(
                f"the network is {input.dtype.name.lower()}, for which ONNX runtimes have no convolutions; "
                "network.float() or network.half() exports"
            )
        half = input.dtype == ir.DataType.FLOAT16
        real = ir.DataType.FLOAT if half else input.dtype
        kernel = list(weight.shape[2:])
        inputs = [
            tensor if tensor is None or tensor.dtype == real else opset19.Cast(tensor, to=real)
            for tensor in (input, weight, offset, bias, mask)
        ]
        output = opset19.DeformConv(
            *inputs,
            kernel_shape=kernel,
            strides=list(stride),
            pads=[*padding, *padding],
            dilations=list(dilation),
            group=input.shape[1] // weight.shape[1],
            offset_group=offset.shape[1] // (2 * kernel[0] * kernel[1]),
        )
        return opset19.Cast(output, to=ir.DataType.FLOAT16) if half else output

    return {torch.ops.dcnlab.deform_conv2d.default: deform_conv2d}


def _file_to_write(folder: Path, form: str, out: Path | None) -> Path:
    """The file to write, checked before the export begins.

    Raises:
        ConfigError: it cannot be written.
    """
    if out is None:
        return folder / f"export{FORMATS[form]}"
    if out.is_dir():
        raise ConfigError(f"--out is {str(out)!r}, a folder; name a file in it: {out / 'export'}{FORMATS[form]}")
    if not out.parent.is_dir():
        raise ConfigError(f"--out is {str(out)!r}, and there is no folder {str(out.parent)!r}")
    return out


def _state(folder: Path) -> dict[str, Tensor]:
    """The network's state without the task's; averaged weights where the run averages them."""
    state = checkpoint_file.scored(RunFolder(folder))[1]["state_dict"]
    return {key.removeprefix(_PREFIX): value for key, value in state.items() if key.startswith(_PREFIX)}


def _network(config: Config, state: dict[str, Tensor]) -> nn.Module:
    """The run's network, ready for evaluation, in float32."""
    class_weight = next(key for key in _CLASS_LAYERS[config.task] if key in state)
    task: Any = build_network.task_module(config, [str(number) for number in range(len(state[class_weight]))])
    task.model.load_state_dict(state)
    network: nn.Module = task.model.float().eval().requires_grad_(False)
    return network


def _metadata(config: Config, notes: list[str]) -> dict[str, str]:
    """Metadata of a file: name, task, config as YAML, and classes as a JSON list."""
    metadata = {"name": config.name, "task": config.task, "config": to_yaml(config)}
    try:
        classes = config.data.classes or build_data.data_module(config).classes
    except (DataError, OSError) as error:
        notes.append(f"the file does not name the classes, which only the data holds: {one_line(error)}")
        return metadata
    return metadata | {"classes": json.dumps(list(classes))}


def _size(config: Config) -> tuple[int, int]:
    data = config.data
    if names.data_set(data.name).is_square:
        return data.image_size, data.image_size
    if data.crop_size is None:
        raise ConfigError(f"images of {data.name} have no one size; give one: --size HxW")
    return data.crop_size


def _any_number_of_images() -> tuple[dict[int, Any]]:
    """The dynamic shapes: the batch size of the one input."""
    return ({0: torch.export.Dim("batch")},)


def _torch_export(network: nn.Module, image: Tensor, metadata: dict[str, str]) -> bytes:
    program = torch.export.export(network, (image,), dynamic_shapes=_any_number_of_images())
    file = io.BytesIO()
    torch.export.save(program, file, extra_files=metadata)
    return file.getvalue()


def _onnx(network: nn.Module, image: Tensor, metadata: dict[str, str]) -> bytes:
    table = translation_table()
    program = torch.onnx.export(
        network,
        (image,),
        dynamo=True,
        opset_version=OPSET,
        custom_translation_table=table,
        dynamic_shapes=_any_number_of_images(),
        input_names=["images"],
        output_names=["logits"],
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props.update(metadata)
    written: bytes = program.model_proto.SerializeToString()
    return written
