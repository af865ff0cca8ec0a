"""Table: the arguments of a compiled loop as one record of numbers with named fields.

A loop is a function of one address. There lies a record of 64-bit numbers: a counter, how many parts there are, then
the loop's own fields. An array is its address and its sizes, n0, n1, ..
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import Tensor

NUMBER = 0
"""A field that is a number, and no array."""


class Table:
    """A record of named fields.

    Args:
        fields: for each the number of an array's axes, NUMBER, or a table within the table.
    """

    def __init__(self, **fields: int | Table) -> None:
        self.fields = fields
        self.dtype = np.dtype([(name, _dtype(kind)) for name, kind in fields.items()])

    @classmethod
    def of_numbers(cls, names: Iterable[str]) -> Table:
        """A table of numbers alone."""
        return cls(**dict.fromkeys(names, NUMBER))

    def numbers(self, **values: Any) -> list[int]:
        """The numbers of the record.

        Args:
            values: for each field a number, a contiguous tensor, which the caller keeps alive, or all of its numbers.

        Raises:
            TypeError: the names are not the fields', or a tensor has another number of axes.
        """
        if values.keys() != self.fields.keys():
            raise TypeError(f"the fields are {', '.join(self.fields)}, got {', '.join(values)}")
        numbers: list[int] = []
        for name, kind in self.fields.items():
            value = values[name]
            if kind is NUMBER:
                numbers.append(value)
            elif isinstance(value, Tensor):
                shape = value.shape
                if len(shape) != kind:
                    raise TypeError(f"{name}: expected {kind} axes, got shape {tuple(shape)}")
                numbers.append(value.data_ptr())
                numbers += shape
            else:
                numbers += value
        return numbers

    def of_loop(self) -> np.dtype:
        """The whole record of a loop, which begins with what `openmp.run` puts there."""
        return np.dtype([("next", np.int64), ("parts", np.int64), *((name, self.dtype[name]) for name in self.fields)])


def _dtype(kind: int | Table) -> Any:
    if isinstance(kind, Table):
        return kind.dtype
    if kind == NUMBER:
        return np.int64
    return np.dtype([("address", np.int64), *((f"n{axis}", np.int64) for axis in range(kind))])
