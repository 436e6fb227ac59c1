"""From a sweep to its cells: the product of the axes, less `exclude`, and after it `include`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from gpubench.catalogue import Catalogue, WorkloadInfo
from gpubench.errors import ConfigError
from gpubench.records import Cell, Scalar
from gpubench.scalars import axis_value
from gpubench.sweep.arguments import is_scalar
from gpubench.sweep.identity import CellNamer, cell_key
from gpubench.sweep.load import Sweep
from gpubench.sweep.plan import Plan, make_plan

__all__ = ["Grid", "expand", "shown_arguments"]


@dataclass(frozen=True)
class Grid:
    """The cells of a sweep, in the order of their indices."""

    workload: WorkloadInfo
    cells: tuple[Cell, ...]
    names: tuple[str, ...]
    """The axes, in order; also those with one value."""
    num_excluded: int = 0
    warnings: tuple[str, ...] = ()
    """What a user should know though nothing is wrong: an exclude that matches no cell."""

    def values_of(self, name: str) -> list[Scalar]:
        """The distinct values that an argument or `backend` takes among these cells, in order of appearance."""
        values = {}
        for cell in self.cells:
            arguments = shown_arguments(cell)
            if name in arguments:
                values[repr(arguments[name])] = arguments[name]
        return list(values.values())


def shown_arguments(cell: Cell) -> dict[str, Scalar]:
    """`backend` and all arguments of a cell as axes show them."""
    return {"backend": cell.backend, **{name: axis_value(value) for name, value in cell.arguments.items()}}


def expand(sweep: Sweep, catalogue: Catalogue) -> Grid:
    """Every cell of a sweep, checked against the catalogue.

    The index counts the whole grid, before `exclude`; rows of `include` are numbered on after it. A backend that
    lacks an option which others sweep gets one cell for all its values, without it. `ConfigError` with the place for
    each name or value that is unknown, a cell that is given twice, and a grid without cells.
    """
    plan = make_plan(sweep, catalogue)
    namer = CellNamer(plan.varied(), plan.grid_size + len(plan.extras))
    cells: dict[str, Cell] = {}
    hits = [0] * len(plan.exclude)
    num_excluded = 0
    for index, arguments in _grid(plan):
        cell = _cell(plan, namer, index, arguments)
        matching = [number for number, each in enumerate(plan.exclude) if each.matches(arguments)]
        for number in matching:
            hits[number] += 1
        if matching:
            num_excluded += 1
        else:
            cells.setdefault(cell.key, cell)  # the same again: a backend without the option that this step varies
    for number, extra in enumerate(plan.extras):
        cell = _cell(plan, namer, plan.grid_size + number, extra)
        if cell.key in cells:
            message = f"the cell {cells[cell.key].cell_id} once more; remove one of them"
            raise ConfigError(message, sweep.locate("include", number))
        cells[cell.key] = cell
    if not cells:
        raise ConfigError(f"no cell is left of {plan.grid_size}: all are excluded", sweep.locate("exclude"))
    return Grid(plan.workload, tuple(cells.values()), tuple(plan.names), num_excluded, tuple(_idle(sweep, hits)))


def _grid(plan: Plan) -> Iterator[tuple[int, dict[str, Any]]]:
    """Index and arguments of each point of the product, with `backend` among them."""
    if not plan.has_grid:
        return
    for index, choice in enumerate(itertools.product(*plan.groups)):
        arguments = dict(plan.constants)
        for row in choice:
            arguments.update(row)
        yield index, plan.arguments.without_foreign_options(arguments)


def _cell(plan: Plan, namer: CellNamer, index: int, arguments: dict[str, Any]) -> Cell:
    backend = arguments["backend"]
    values = {name: arguments[name] for name in plan.names if name in arguments}
    params = {
        name: value
        for name, value in arguments.items()
        if name != "backend" and (name not in values or not is_scalar(value))
    }
    asked = {name: value for name, value in arguments.items() if name != "backend"}
    return Cell(
        index=index,
        cell_id=namer.name(index, values),
        key=cell_key(plan.workload.name, backend, asked),
        workload=plan.workload.name,
        backend=backend,
        axes={name: axis_value(value) for name, value in values.items()},
        params=params,
    )


def _idle(sweep: Sweep, hits: list[int]) -> Iterator[str]:
    for number, count in enumerate(hits):
        if not count:
            yield f"{sweep.locate('exclude', number)}: matches no cell"
