"""A forward pass on shapes alone, without side effects on the model, random generators, logs or warnings."""

from __future__ import annotations

import copy
import logging
import random
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.nn.parameter import is_lazy

_CONTAINERS = (dict, OrderedDict, list, set)


def run_on_shapes(model: nn.Module, example: Tensor | None, channels: int) -> Exception | None:
    """Run a forward pass without arithmetic, in the model's mode.

    Args:
        model: any module with parameters.
        example: its input; None is an image (1, channels, 224, 224).
        channels: of that image.

    Returns:
        The exception that the pass raised, or None.
    """
    weight = next(model.parameters())
    try:
        with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True) as mode:
            model(weight.new_empty(1, channels, 224, 224) if example is None else mode.from_tensor(example))
    except Exception as error:  # any model may fail in any way on an input that is not its own
        return error
    return None


@contextmanager
def without_a_trace(model: nn.Module) -> Iterator[None]:
    """Set a model to evaluation, without its hooks; afterwards it and the random generators are as they were.

    The modules' attributes are put back, among them buffers, training flags, hooks, and what a forward pass caches.
    The random generators are Python's, numpy's and torch's. What torch logs or anyone warns of meanwhile is dropped.
    """
    modules = list(model.modules())
    modes = [module.training for module in modules]
    kept = [_Attributes(module) for module in modules if not isinstance(module, torch.jit.ScriptModule)]
    devices = {parameter.device.index for parameter in model.parameters() if parameter.is_cuda}
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(sorted(devices)))
        stack.callback(random.setstate, random.getstate())
        stack.callback(np.random.set_state, np.random.get_state())  # noqa: NPY002  (the generator that networks use)
        stack.callback(_put_back, [(tensor, tensor.detach().clone(), tensor._version) for tensor in _single(model)])
        stack.enter_context(_no_logs_of("torch"))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        try:
            for module in modules:
                # Not by eval(), which some networks override to fold weights or thaw norms.
                module.training = False
            for attributes in kept:
                attributes.module._forward_hooks.clear()
                attributes.module._forward_pre_hooks.clear()
            yield
        finally:
            for module, mode in zip(modules, modes, strict=True):
                module.training = mode
            for attributes in kept:
                attributes.put_back()


def _single(model: nn.Module) -> list[Tensor]:
    """Parameters and buffers of one element, whose values torch computes in such a pass too, and changes in place."""
    tensors = [tensor for tensor in (*model.parameters(), *model.buffers()) if not is_lazy(tensor)]
    return [tensor for tensor in tensors if tensor.numel() == 1 and not (tensor.is_meta or tensor.is_inference())]


def _put_back(tensors: list[tuple[Tensor, Tensor, int]]) -> None:
    for tensor, value, version in tensors:
        if tensor._version != version:
            tensor.data.copy_(value)


class _Attributes:
    """A module's attributes, and copies of those that are containers."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.values: dict[str, Any] = dict(vars(module))
        self.contents = [(value, copy.copy(value)) for value in self.values.values() if type(value) in _CONTAINERS]

    def put_back(self) -> None:
        """Undo what was set, removed or added since."""
        vars(self.module).clear()
        vars(self.module).update(self.values)
        for value, content in self.contents:
            value.clear()
            (value.extend if isinstance(value, list) else value.update)(content)


@contextmanager
def _no_logs_of(package: str) -> Iterator[None]:
    """Disable the loggers of a package."""
    known = logging.root.manager.loggerDict.items()
    loggers = [logger for name, logger in known if f"{name}.".startswith(f"{package}.")]
    disabled = [logger for logger in loggers if isinstance(logger, logging.Logger) and not logger.disabled]
    try:
        for logger in disabled:
            logger.disabled = True
        yield
    finally:
        for logger in disabled:
            logger.disabled = False
