"""The living beside the dead: for each failed cell the clean one that differs from it in the fewest axes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gpubench.records import Scalar
from gpubench.scalars import format_scalar
from gpubench.triage.grid import Grid, Mask

__all__ = ["Difference", "Twin", "find_twins"]


@dataclass(frozen=True)
class Difference:
    """What one axis is for the failed cell, and for its twin."""

    axis: str
    failed: Scalar
    clean: Scalar

    @property
    def text(self) -> str:
        return f"{self.axis} {format_scalar(self.failed)} → {format_scalar(self.clean)}"


@dataclass(frozen=True)
class Twin:
    """A failed cell and its nearest clean one."""

    cell: str
    twin: str
    differs: tuple[Difference, ...]

    @property
    def text(self) -> str:
        """`cell_012_C008_TEP_GVRT (gvr false → true)`."""
        return f"{self.twin} ({', '.join(difference.text for difference in self.differs)})"


def find_twins(grid: Grid, failed: Mask, clean: Mask) -> Iterator[Twin]:
    """The twin of each failed cell, in the grid's order; nothing if no cell is clean.

    What another axis settles, as those do that are zipped with it, is not counted besides it. Of several that differ in
    as few axes, the one that is the smallest step away: a switch thrown, another word, a number up or down the axis;
    then the first.
    """
    living = np.flatnonzero(clean)
    if not len(living) or not grid.axes:
        return
    counted = grid.independent_axes
    codes = np.stack([axis.codes for axis in counted], axis=0).astype(np.int32)
    of_living = codes[:, living]
    step = [1 if axis.is_switch else 2 for axis in counted]
    a_whole_axis = 1 + sum(step) + sum(len(axis.values) for axis in counted)
    for place in np.flatnonzero(failed).tolist():
        distance = np.zeros(len(living), dtype=np.int32)
        for axis, theirs, its, one_step in zip(counted, of_living, codes[:, place], step, strict=True):
            distance += (theirs != its) * np.int32(a_whole_axis + one_step)
            if axis.is_ordered:
                distance += np.abs(theirs - its)
        nearest = int(living[int(distance.argmin())])
        found = [
            Difference(axis.name, axis.values[axis.codes[place]], axis.values[axis.codes[nearest]])
            for axis in grid.axes
            if axis.codes[place] != axis.codes[nearest]
        ]
        yield Twin(grid.cells[place].cell_id, grid.cells[nearest].cell_id, tuple(found))
