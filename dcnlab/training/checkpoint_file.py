"""The checkpoint file: written whole, read without running code, and checked."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO

from dcnlab.io import torch_file
from dcnlab.io.atomic import write_whole
from dcnlab.io.errors import ConfigError
from dcnlab.training.distributed.rank import is_rank_0
from dcnlab.training.run_folder import LAST, PREVIOUS, RunFolder


class Damaged(ConfigError):
    """A checkpoint cannot be read."""

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(text)
        self.reason = reason


class WholeFiles(TorchCheckpointIO):
    """Writes checkpoints so that a crash, a full disk or kill -9 leaves the old file whole, and keeps the one before.

    Lightning writes its temporary file to the system's folder for them. From there a move to another disk is a copy,
    which can be cut short.
    """

    def __init__(self) -> None:
        super().__init__()
        self._written: Path | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write next to the old file, then rename; the run's old last checkpoint becomes the previous one."""
        buffer = io.BytesIO()  # torch's own error on a full disk does not say that the disk is full
        torch.save(checkpoint, buffer)
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._keep(path)
        write_whole(path, buffer.getbuffer())
        self._written = path

    def _keep(self, path: Path) -> None:
        """Make the last checkpoint the previous one, unless it is damaged: then the previous one is all there is.

        Both names stand for one file until the new one is written, so that the disk holds two files at any time.
        """
        if path.name != LAST or not path.is_file():
            return
        if path != self._written:  # another process wrote it, perhaps long ago
            try:
                read(path)
            except ConfigError:
                return
        previous = path.with_name(PREVIOUS)
        link = previous.with_name(f".{previous.name}.{os.getpid()}")
        link.unlink(missing_ok=True)
        try:
            os.link(path, link)
        except OSError:  # a file system without links
            os.replace(path, previous)
        else:
            os.replace(link, previous)


def scored(folder: RunFolder) -> tuple[Path, dict[str, Any]]:
    """The checkpoint that a run is scored and loaded with, and its content: the best one, if kept, or the newest.

    Raises:
        ConfigError: there is none, or it is not whole.
    """
    best = folder.best_checkpoint
    return (best, read(best)) if best.is_file() else newest(folder)


def newest(folder: RunFolder) -> tuple[Path, dict[str, Any]]:
    """The newest checkpoint of a run that is whole, and its content; warns where it is the previous one.

    Raises:
        ConfigError: there is none, or none is whole.
    """
    paths = folder.checkpoints()
    if not paths:
        name = folder.checkpoint.relative_to(folder.path)
        raise ConfigError(f"{folder} has no {name}; run its experiment again with `dcnlab fit`")
    for path in paths:
        try:
            return path, read(path)
        except Damaged as error:
            if path == paths[-1]:
                raise
            if is_rank_0():
                text = f"{path} is damaged ({error.reason}); taking the one before it, {paths[-1].name}"
                logging.getLogger("dcnlab").warning(text)
    raise AssertionError


def read(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, through the loader that runs no code.

    Raises:
        Damaged: it is not whole, or holds more than tensors and plain containers.
        ConfigError: it is not a run's.
    """
    again = "begin a new run under another id, or remove the folder"
    try:
        content = torch_file.load(path)
    except ValueError as error:
        raise Damaged(f"{path} is not a whole checkpoint ({error}); {again}", str(error)) from error
    if not isinstance(content, dict) or type(content.get("global_step")) is not int:
        raise ConfigError(f"{path} is not a checkpoint of a run; {again}")
    state = content.get("state_dict")
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()
    ):
        raise ConfigError(f"{path} is not a checkpoint of a run: its state_dict does not map names to tensors; {again}")
    _check_finite(path, state, "")
    return content


def _check_finite(path: Path, tensors: dict[str, torch.Tensor], what: str) -> None:
    """Refuse tensors with NaN or infinity: they cannot be scored, exported or trained.

    Raises:
        ConfigError: a tensor holds one; names the first.
    """
    names = torch_file.not_finite(tensors)
    if names:
        more = f", nor are {len(names) - 1} more tensors" if len(names) > 1 else ""
        raise ConfigError(
            f"{path}: {what}{names[0].removeprefix('model.')} is not finite{more}; the training diverged or the "
            "file was edited: nothing can be resumed, scored or exported from it"
        )


_KINDS: dict[str, type] = {
    "epoch": int,
    "pytorch-lightning_version": str,
    "loops": dict,
    "callbacks": dict,
    "optimizer_states": list,
    "lr_schedulers": list,
    "dcnlab": dict,
}
"""Entries that resuming needs; `read` checks the weights."""
_RECORD_KINDS: dict[str, type] = {"settings": dict, "pass": int, "batches": int, "processes": int}


def check_trainable(content: dict[str, Any], path: Path) -> None:
    """Check that a training of some config can resume from what `read` returned.

    Raises:
        ConfigError: an entry is missing, of another kind, or not finite; names it.
    """
    record = content.get("dcnlab")
    if not isinstance(record, dict) or any(type(record.get(key)) is not kind for key, kind in _RECORD_KINDS.items()):
        raise ConfigError(f"{path} does not say what made it, so no run can resume from it")
    for key in ("pass", "batches", "processes"):
        if record[key] < (key == "processes"):
            raise ConfigError(f"{path}: dcnlab.{key} is {record[key]}; the file was edited")
    for key, kind in _KINDS.items():
        if type(content.get(key)) is not kind:
            value = f"a {type(content[key]).__name__}" if key in content else "missing"
            raise ConfigError(f"{path}: {key} is {value}, and must be a {kind.__name__}; the file was edited")
    current = content.get("current_model_state", {})
    if not isinstance(current, dict) or not all(isinstance(value, torch.Tensor) for value in current.values()):
        raise ConfigError(f"{path}: current_model_state does not map names to tensors; the file was edited")
    _check_finite(path, current, "before averaging, ")
    tensors = dict(_named_tensors(content["optimizer_states"], "optimizer_states"))
    _check_finite(path, tensors, "")


def _named_tensors(nested: Any, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors in nested containers, under the path of their keys."""
    if isinstance(nested, torch.Tensor):
        yield name, nested
    elif isinstance(nested, dict | list):
        for key, value in nested.items() if isinstance(nested, dict) else enumerate(nested):
            yield from _named_tensors(value, f"{name}.{key}")
