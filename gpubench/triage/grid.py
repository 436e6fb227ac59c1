"""A run's cells as columns of codes, so that ten thousand of them are compared in no time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gpubench.records import Cell, Scalar

__all__ = ["ABSENT", "Axis", "Grid", "Mask"]

Mask = NDArray[np.bool_]
"""A truth per cell."""

ABSENT = "–"
"""The value of a cell that doesn't have the axis."""


@dataclass(frozen=True)
class Axis:
    """An axis that takes several values."""

    name: str
    values: tuple[Scalar, ...]
    """Those that occur: in order if they are numbers, else as they first occur."""
    codes: NDArray[np.int64]
    """Of each cell: the place of its value."""
    is_ordered: bool
    """All values are numbers: an axis that has a direction."""

    @property
    def is_switch(self) -> bool:
        return all(isinstance(value, bool) for value in self.values)


@dataclass(frozen=True)
class Grid:
    """The cells of a run, ran or not."""

    cells: Sequence[Cell]

    @cached_property
    def axes(self) -> list[Axis]:
        """The axes with several values, in the grid's order; one that only `include` varies is among them."""
        names = list(dict.fromkeys(name for cell in self.cells for name in cell.axes))
        found = [self._axis(name) for name in names]
        return [axis for axis in found if len(axis.values) > 1]

    def mask(self, places: Sequence[int]) -> Mask:
        """True of these cells."""
        chosen = np.zeros(len(self.cells), dtype=bool)
        chosen[list(places)] = True
        return chosen

    def _axis(self, name: str) -> Axis:
        column = [_value(cell, name) for cell in self.cells]
        distinct = {_identity(value): value for value in column}
        is_ordered = all(_is_number(value) for value in distinct.values())
        if is_ordered:
            distinct = dict(sorted(distinct.items(), key=_number))
        place = {identity: number for number, identity in enumerate(distinct)}
        codes = np.array([place[_identity(value)] for value in column], dtype=np.int64)
        return Axis(name, tuple(distinct.values()), codes, is_ordered)


def _value(cell: Cell, name: str) -> Scalar:
    if name in cell.axes:
        return cell.axes[name]
    value = cell.backend if name == "backend" else cell.params.get(name, ABSENT)
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def _identity(value: Scalar) -> tuple[bool, Scalar]:
    return isinstance(value, bool), value  # True equals 1, and is another value


def _number(item: tuple[tuple[bool, Scalar], Scalar]) -> float:
    assert isinstance(item[1], int | float), "only an axis of numbers is put in order"
    return item[1]


def _is_number(value: Scalar) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
