"""Exports a run's network: weights as safetensors, or the whole network as a graph of torch.export or ONNX."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn

from dcnlab.config import outside
from dcnlab.config.load import load_run
from dcnlab.config.value_checks import choose
from dcnlab.io.atomic import write_whole
from dcnlab.io.errors import ConfigError
from dcnlab.training.exported_run import image_size, metadata_of, network_of, network_state

FORMATS = {"safetensors": ".safetensors", "torch-export": ".pt2", "onnx": ".onnx"}
"""Formats, and the suffixes of their files."""

OPSET = 19
"""ONNX's first operator set with DeformConv."""


@dataclass
class Exported:
    """What was written."""

    path: Path
    notes: list[str]
    """The parts that the file lacks, and why."""


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
    state = network_state(folder)
    notes: list[str] = []
    metadata = metadata_of(config, notes)
    if form == "safetensors":
        # Contiguous: channels-last is how torch computes, and does not belong into the file.
        written = safetensors_bytes({key: value.contiguous() for key, value in state.items()}, metadata)
    else:
        network = network_of(config, state)
        # With a single image the exporter would fix the batch size.
        image = torch.zeros(2, 3, *(size or image_size(config)))
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

    ONNX has no multi-scale deformable attention; the table refuses it by a line that says how it exports.

    Raises:
        ConfigError: onnxscript is not installed.
    """
    try:
        from onnxscript import evaluator, ir, opset19
    except ImportError as error:
        raise ConfigError("ONNX needs packages that are not installed: pip install 'dcnlab[onnx]'") from error

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

    def ms_deform_attn(
        value: Any, spatial_shapes: Any, level_start_index: Any, locations: Any, weights: Any, normalized: bool
    ) -> Any:
        raise ConfigError(
            "ms_deform_attn is not an ONNX operator; give torch.onnx.export the program of "
            "torch.export.export(..).run_decompositions({torch.ops.dcnlab.ms_deform_attn.default: "
            "dcnlab.ops.reference.ms_deform_attn})"
        )

    operators = torch.ops.dcnlab
    return {operators.deform_conv2d.default: deform_conv2d, operators.ms_deform_attn.default: ms_deform_attn}


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
