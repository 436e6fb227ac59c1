"""Cells of two runs that ask the same question: workload, backend and every argument, whichever of them are swept.

An argument that only one of the runs names has, in the other, the default that the workload had when that run was made.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpubench.analysis import columns as c
from gpubench.analysis.merge import CellResult
from gpubench.analysis.run import Run
from gpubench.sweep.arguments import canonical

__all__ = ["Pair", "one_sided", "pair_cells", "varied"]


@dataclass(frozen=True)
class Pair:
    """A cell of the first run, of the second, or of both; and what it asks, defaults filled in."""

    before: CellResult | None
    after: CellResult | None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """`backend` among them."""

    @property
    def cell(self) -> CellResult:
        cell = self.before or self.after
        assert cell is not None, "a pair has at least one cell"
        return cell

    @property
    def backend(self) -> str:
        return self.cell.cell.backend


def pair_cells(before: Run, after: Run) -> list[Pair]:
    """In the order of the second run's grid; cells that only the first has come last."""
    names = _names(before) | _names(after)
    waiting: defaultdict[str, deque[CellResult]] = defaultdict(deque)
    for cell in before.cells:
        waiting[_question(before, cell, names)].append(cell)
    pairs = []
    for cell in after.cells:
        same = waiting[_question(after, cell, names)]
        pairs.append(Pair(same.popleft() if same else None, cell, _asked(after, cell, names)))
    left = {id(cell) for cells in waiting.values() for cell in cells}
    pairs += [Pair(cell, None, _asked(before, cell, names)) for cell in before.cells if id(cell) in left]
    return pairs


def one_sided(before: Run, after: Run) -> Iterator[str]:
    """A sentence for every argument that only one of the runs names."""
    for run, other in ((before, after), (after, before)):
        for name in sorted(_names(run) - _names(other)):
            defaults = [axis.default for axis in other.header.workload.axes if axis.name == name and not axis.required]
            if defaults:
                yield f"{name} is given in {run.run_id} only: the other run's cells have its default, {defaults[0]!r}."
            else:
                yield f"{name} is given in {run.run_id} only and has no default in the other: such cells don't match."


def _names(run: Run) -> set[str]:
    return {name for cell in run.header.cells for name in cell.arguments}


def _asked(run: Run, cell: CellResult, names: set[str]) -> dict[str, Any]:
    """The cell's arguments, with the defaults of those among `names` that it doesn't give."""
    defaults = {
        axis.name: axis.default
        for axis in run.header.workload.axes
        if axis.name in names and not axis.required and (not axis.backends or cell.cell.backend in axis.backends)
    }
    return {c.BACKEND: cell.cell.backend, **defaults, **cell.cell.arguments}


def _question(run: Run, cell: CellResult, names: set[str]) -> str:
    return canonical([cell.cell.workload, _asked(run, cell, names)])


def varied(pairs: Sequence[Pair], axes: Sequence[str]) -> list[str]:
    """Those axes that have several values among the pairs."""
    return [name for name in axes if len({canonical(pair.arguments.get(name)) for pair in pairs}) > 1]
