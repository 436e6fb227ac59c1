"""A run's cells as columns of codes, so that ten thousand of them are compared in no time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gpubench.records import Cell, Scalar
from gpubench.scalars import axis_value

__all__ = ["ABSENT", "Axis", "Grid", "Mask"]

Mask = NDArray[np.bool_]
"""A truth per cell."""

_Identity = tuple[bool, Scalar]

ABSENT = "–"
"""The value of a cell that doesn't have the axis."""


@dataclass(frozen=True)
class Axis:
    """An axis that takes several values."""

    name: str
    values: tuple[Scalar, ...]
    """Those that occur: in order if they are numbers, with what is none before them; else as they first occur."""
    codes: NDArray[np.int64]
    """Of each cell: the place of its value."""
    is_ordered: bool
    """All values are numbers, but for null and what a cell doesn't have: an axis that has a direction."""
    num_missing: int = 0
    """Of an ordered axis: how many of its values are none. They are neither high nor low."""

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

    @cached_property
    def independent_axes(self) -> list[Axis]:
        """Those that no other axis settles; of several that settle one another, as zipped ones do, the first."""
        axes, settled = self.axes, set[int]()
        for place, axis in enumerate(axes):
            others = [each for each in range(len(axes)) if each != place and each not in settled]
            if any(_settles(axes[other], axis) for other in others if other < place or not _settles(axis, axes[other])):
                settled.add(place)
        return [axis for place, axis in enumerate(axes) if place not in settled]

    def mask(self, places: Sequence[int]) -> Mask:
        """True of these cells."""
        chosen = np.zeros(len(self.cells), dtype=bool)
        chosen[list(places)] = True
        return chosen

    def _axis(self, name: str) -> Axis:
        column = [_value(cell, name) for cell in self.cells]
        distinct = {_identity(value): value for value in column}
        missing: dict[_Identity, Scalar] = {key: each for key, each in distinct.items() if each in (None, ABSENT)}
        numbers = [item for item in distinct.items() if _is_number(item[1])]
        is_ordered = len(numbers) > 1 and len(numbers) + len(missing) == len(distinct)
        if is_ordered:
            distinct = missing | dict(sorted(numbers, key=lambda item: _number(item[1])))
        place = {identity: number for number, identity in enumerate(distinct)}
        codes = np.array([place[_identity(value)] for value in column], dtype=np.int64)
        return Axis(name, tuple(distinct.values()), codes, is_ordered, len(missing) if is_ordered else 0)


def _value(cell: Cell, name: str) -> Scalar:
    if name in cell.axes:
        return cell.axes[name]
    return axis_value(cell.backend if name == "backend" else cell.params.get(name, ABSENT))


def _identity(value: Scalar) -> _Identity:
    return isinstance(value, bool), value  # True equals 1, and is another value


def _number(value: Scalar) -> float:
    assert isinstance(value, int | float), "only an axis of numbers is put in order"
    return value


def _is_number(value: Scalar) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _settles(one: Axis, other: Axis) -> bool:
    """Whether all cells that are alike on the one are alike on the other."""
    return len(np.unique(one.codes * len(other.values) + other.codes)) == len(one.values)
