"""NamedDraws: draws each parameter of a network from a generator of the seed and the parameter's name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dcnlab.data.seeding import seeded

BACKBONE = "backbone."
_Steps = tuple[Callable[..., Tensor], ...]


class NamedDraws(TorchDispatchMode):
    """Watches how a network is built, then draws its random tensors again, each from a generator of (seed, name).

    Networks of one seed that differ in some layers, twins, so start with the same numbers in all other layers. The
    difference of their scores is then made by the layers that differ, and less by the luck of the start. Distributions
    stay those of the constructors: the same operation draws again, and the operations that followed it are repeated.

    Three kinds of tensors stay as they were built: constants, what was loaded from a file, and what was computed from
    several tensors or outside torch, such as orthogonal weights. A copy of a drawn tensor stays equal to it.

    Example:
        with NamedDraws() as draws:
            network = build()
        draws.redraw(network, seed)
    """

    def __init__(self) -> None:
        super().__init__()
        self._draws: dict[int, _Draw] = {}  # by storage: a parameter has that of the tensor that it was made of

    def redraw(self, network: nn.Module, seed: int) -> None:
        """Draw a network's random parameters and buffers again; torch's global generator stays as it is.

        A parameter of `backbone` counts by its name in there, whatever head or spatial transformer stands around it.

        Args:
            network: was built under this mode, on any device.
            seed: a whole number.
        """
        tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
        names: dict[Any, str] = {}  # by draw, which copies of a tensor share
        for name, tensor in tensors.items():
            draw = None if is_lazy(tensor) else self._draw_of(tensor)
            if draw is not None:
                short = name.removeprefix(BACKBONE)
                drawn_as = names.setdefault(draw.steps[0], name if short in tensors else short)
                with torch.no_grad(), seeded(seed, *drawn_as.encode()):
                    tensor.copy_(draw.value())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and remember what it draws, changes or overwrites."""
        kwargs = kwargs or {}
        if types:  # tensors of shapes alone, on which surgery runs a network to find the order of its layers
            return func(*args, **kwargs)
        written = _written(func, args, kwargs)
        steps = self._steps(func, args, kwargs, written)
        result = func(*args, **kwargs)
        for tensor in written:
            self._draws.pop(_storage(tensor), None)
        if steps and isinstance(result, Tensor) and _is_whole(result):
            # A view of a drawn tensor has its storage, and changes nothing about it.
            self._draws.setdefault(_storage(result), _Draw(steps, result.untyped_storage(), *_layout(result)))
        return result

    def _steps(self, func: Any, args: Any, kwargs: Any, written: list[Tensor]) -> _Steps:
        """The operations that make an operation's result, the first of which draws; none if that is not known."""
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if func is torch.ops.aten.copy_.default and args[0].shape == args[1].shape:
            return self._then(args[1], partial(_apply, torch.Tensor.to, (args[0].dtype,), {}))
        if len(tensors) > 1 or (tensors and tensors[0] is not args[0]):
            return ()
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return self._then(args[0], partial(_apply, func, args[1:], kwargs)) if tensors else ()
        if kwargs.get("generator") is not None or bool(tensors) != bool(written):
            return ()
        if not tensors:  # torch.randn and the like
            return (partial(func, *args, **{**kwargs, "device": "cpu"}),)
        return (partial(_draw, func, tuple(args[0].shape), args[0].dtype, args[1:], kwargs),)

    def _then(self, tensor: Tensor, step: Callable[[Tensor], Tensor]) -> _Steps:
        """The steps that made a tensor and one more; none if it was not drawn."""
        draw = self._draw_of(tensor)
        return () if draw is None else (*draw.steps, step)

    def _draw_of(self, tensor: Tensor) -> _Draw | None:
        draw = self._draws.get(_storage(tensor))
        return draw if draw is not None and (draw.shape, draw.stride) == _layout(tensor) else None


@dataclass(frozen=True)
class _Draw:
    """How the numbers of a storage came about: the draw, then what was done with them."""

    steps: _Steps
    storage: Any  # kept alive: a new storage must not get its address
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def value(self) -> Tensor:
        """Draw from torch's global generator, and take the steps that follow."""
        value = self.steps[0]()
        for step in self.steps[1:]:
            value = step(value)
        return value


def _draw(func: Any, shape: tuple[int, ...], dtype: torch.dtype, args: Any, kwargs: Any) -> Tensor:
    # Into a new tensor on the CPU: the numbers depend neither on the device nor on the order of axes in memory.
    drawn: Tensor = func(torch.empty(shape, dtype=dtype, device="cpu"), *args, **kwargs)
    return drawn


def _apply(func: Any, args: Any, kwargs: Any, value: Tensor) -> Tensor:
    result: Tensor = func(value, *args, **kwargs)
    return result


def _written(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """The tensors that an operation changes in place."""
    changes = {
        argument.name: argument.alias_info is not None and argument.alias_info.is_write
        for argument in func._schema.arguments
    }
    values = {**dict(zip(changes, args, strict=False)), **kwargs}
    return [
        leaf
        for name, value in values.items()
        if changes[name]
        for leaf in tree_leaves(value)
        if isinstance(leaf, Tensor)
    ]


def _storage(tensor: Tensor) -> int:
    """Identifies a tensor's storage; 0 if it has no numbers."""
    return 0 if tensor.is_meta or tensor.layout != torch.strided else int(tensor.untyped_storage()._cdata)


def _layout(tensor: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return tuple(tensor.shape), tensor.stride()


def _is_whole(tensor: Tensor) -> bool:
    """Whether a tensor has all numbers of its storage."""
    return bool(_storage(tensor)) and tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes()
