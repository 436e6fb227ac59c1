"""A sweep held against the catalogue: every name known, every value of the right type, or an error for each.

The plan that comes out is what `expand` multiplies.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpubench.catalogue import Catalogue, WorkloadInfo
from gpubench.errors import ConfigError
from gpubench.predicates import Predicate, PredicateError, parse_predicate
from gpubench.records import Scalar
from gpubench.sweep.arguments import ArgumentError, Arguments, canonical, is_scalar
from gpubench.sweep.document import KeyPath, format_path
from gpubench.sweep.load import Sweep
from gpubench.sweep.problems import known_list, raise_problems, show, unknown

__all__ = ["MAX_CELLS", "Plan", "make_plan"]

Groups = Sequence[Sequence[Mapping[str, Scalar]]]

MAX_CELLS = 100_000


@dataclass(frozen=True)
class Plan:
    """A checked sweep. A grid cell's arguments are `constants`, overlaid by a choice from each group."""

    arguments: Arguments
    axis_names: list[str]
    """As written, then those of zip."""
    promoted: list[str]
    """What include rows vary besides: an axis of the whole grid too, so that a report can tell the cells apart."""
    groups: list[list[dict[str, Scalar]]]
    """What is multiplied: the values of each axis, and the rows of zip as one more."""
    constants: dict[str, Any]
    """The params, and `backend` unless it is an axis."""
    extras: list[dict[str, Any]]
    """All arguments of each include row, with those it inherits."""
    exclude: list[Predicate]
    has_grid: bool
    """False: only include rows were given."""

    @property
    def workload(self) -> WorkloadInfo:
        return self.arguments.workload

    @property
    def names(self) -> list[str]:
        return [*self.axis_names, *self.promoted]

    @property
    def grid_size(self) -> int:
        return math.prod(len(group) for group in self.groups) if self.has_grid else 0

    def values_of(self, name: str) -> list[Any]:
        """The distinct values of an argument over grid and include rows, in the order in which they appear."""
        sources: list[Mapping[str, Any]] = [row for group in self.groups for row in group]
        sources += [self.constants] if self.has_grid else []
        found = [source[name] for source in [*sources, *self.extras] if name in source]
        return list({canonical(value): value for value in found}.values())

    def varied(self) -> dict[str, list[Any]]:
        """The values of every axis that has several, in the order of a cell id's parts: backend last.

        Of axes that move together, one that a name decides is left out: the layers and ranks that a model is run with.
        """
        values = {name: self.values_of(name) for name in sorted(self.names, key=lambda name: name == "backend")}
        return {
            name: each
            for name, each in values.items()
            if (len(each) > 1 and not self._is_implied(name))
            or (self.has_grid and name in self.promoted)  # grid cells go without it
        }

    def _is_implied(self, name: str) -> bool:
        """Whether the first axis of this one's group has names and decides it; rows of include may say otherwise."""
        group = next((group for group in self.groups if name in group[0]), [])
        first = next((each for each in self.names if group and each in group[0]), name)
        if self.extras or first == name or not all(isinstance(row[first], str) for row in group):
            return False
        return len({(row[first], canonical(row[name])) for row in group}) == len({row[first] for row in group})


def make_plan(sweep: Sweep, catalogue: Catalogue) -> Plan:
    """Check a sweep against the catalogue; `ConfigError` with a line for everything that doesn't fit."""
    name = sweep.spec.workload
    if name not in catalogue.workloads:
        raise ConfigError(unknown("workload", name, sorted(catalogue.workloads)), sweep.locate("workload"))
    planner = _Planner(sweep, Arguments(catalogue.workloads[name]))
    planner.check_size()
    return planner.plan()


class _Planner:
    """Goes through a sweep section by section and collects what is wrong."""

    def __init__(self, sweep: Sweep, arguments: Arguments) -> None:
        self.sweep = sweep
        self.spec = sweep.spec
        self.arguments = arguments
        self.problems: list[ConfigError] = []

    def check_size(self) -> None:
        """Refuse a grid that is too large before any of its values is looked at."""
        size = math.prod(map(len, self.spec.axes.values())) * max(1, len(self.spec.zip)) + len(self.spec.include)
        if size > MAX_CELLS:
            lengths = [f"{len(values)} of {name}" for name, values in self.spec.axes.items()]
            lengths += [f"{len(self.spec.zip)} of zip"] if self.spec.zip else []
            raise ConfigError(
                f"{size:,} cells ({' × '.join(lengths)}) are more than {MAX_CELLS:,}; sweep fewer values",
                self.sweep.locate("axes"),
            )

    def plan(self) -> Plan:
        groups = [self._axis(name, values) for name, values in self.spec.axes.items()]
        if self.spec.zip:
            groups.append(self._zip())
        axis_names = [*self.spec.axes, *self.spec.zip_names]
        has_grid = bool(axis_names) or not self.spec.include
        constants = self._constants(axis_names, has_grid)
        if has_grid:
            self._require([*axis_names, *self.spec.params], "axes")
        extras = [self._extra(index, groups, constants) for index in range(len(self.spec.include))]
        promoted = _promoted(axis_names, constants, extras)
        exclude = self._exclude(groups, constants)
        plan = Plan(self.arguments, axis_names, promoted, groups, constants, extras, exclude, has_grid)
        self._check_options(plan)
        self._check_references(plan)
        raise_problems(self.problems)
        return plan

    def _axis(self, name: str, values: Sequence[Scalar]) -> list[dict[str, Scalar]]:
        if not self._is_known(name, "axis", "axes", name):
            return [{name: value} for value in values]
        rows = [{name: self._value(name, value, "axes", name, index)} for index, value in enumerate(values)]
        self._refuse_repeats(rows, "axes", name)
        return rows

    def _zip(self) -> list[dict[str, Scalar]]:
        known = [name for name in self.spec.zip_names if self._is_known(name, "axis", "zip", 0, name)]
        rows = [
            {
                name: self._value(name, value, "zip", index, name) if name in known else value
                for name, value in row.items()
            }
            for index, row in enumerate(self.spec.zip)
        ]
        self._refuse_repeats(rows, "zip")
        return rows

    def _constants(self, axis_names: Sequence[str], has_grid: bool) -> dict[str, Any]:
        constants = {
            name: self._value(name, value, "params", name)
            for name, value in self.spec.params.items()
            if self._is_known(name, "param", "params", name)
        }
        if "backend" in constants or "backend" in axis_names:
            return constants
        baseline = self.arguments.workload.baseline
        if baseline is not None:
            return {"backend": baseline, **constants}
        if has_grid or not all("backend" in row for row in self.spec.include):
            known = known_list(backend.name for backend in self.arguments.workload.backends)
            self._fail(f"{self.spec.workload} has no baseline, so name a backend under axes; known: {known}", "axes")
        return constants

    def _extra(self, index: int, groups: Groups, constants: Mapping[str, Any]) -> dict[str, Any]:
        """All arguments of an include row. It inherits params and axes of one value; the others are its to choose."""
        row = {
            name: self._row_value(name, value, "include", index, name)
            for name, value in self.spec.include[index].items()
            if self._is_known(name, "axis", "include", index, name)
        }
        inherited = {name: value for group in groups if len(group) == 1 for name, value in group[0].items()}
        extra = {**constants, **inherited, **row}
        backend = str(extra.setdefault("backend", ""))
        varied = [name for group in groups if len(group) > 1 for name in group[0]]
        missing = [name for name in varied if name not in row and self.arguments.takes(backend, name)]
        if missing:
            self._fail(f"missing {known_list(missing)}, of which the grid has several values", "include", index)
        if not groups:
            self._require(extra, "include", index)
        for name in row:
            if not self.arguments.takes(backend, name):
                owners = known_list(self.arguments.owners(name))
                self._fail(f"{name} is an option of {owners}, not of {backend}", "include", index, name)
        return self.arguments.without_foreign_options(extra)

    def _require(self, given: Collection[str], *path: str | int) -> None:
        missing = [name for name in self.arguments.required if name not in given]
        if missing:
            self._fail(f"{self.spec.workload} needs {known_list(missing)}; give a value under axes or params", *path)

    def _exclude(self, groups: Groups, constants: Mapping[str, Any]) -> list[Predicate]:
        values: dict[str, list[Scalar]] = {name: [value] for name, value in constants.items()}
        for group in groups:
            for name in group[0]:
                values[name] = [row[name] for row in group]
        predicates = []
        for index, row in enumerate(self.spec.exclude):
            predicate = parse_predicate(row)
            for name in row:
                if name not in values:
                    self._fail(unknown("axis", name, values, of="this sweep"), "exclude", index, name)
            try:
                predicate.check(values)
            except PredicateError as error:
                self._fail(str(error), "exclude", index, error.axis)
            predicates.append(predicate)
        return predicates

    def _check_options(self, plan: Plan) -> None:
        backends = [str(backend) for backend in plan.values_of("backend")]
        written: list[tuple[str, KeyPath]] = [(name, ("axes", name)) for name in self.spec.axes]
        written += [(name, ("params", name)) for name in self.spec.params]
        written += [(name, ("zip", 0, name)) for name in self.spec.zip_names]
        for name, path in written:
            owners = self.arguments.owners(name)
            if owners and not set(owners).intersection(backends):
                self._fail(f"{name} is an option of {known_list(owners)}, which this sweep doesn't run", *path)

    def _check_references(self, plan: Plan) -> None:
        """What names a backend or an axis outside the grid."""
        against = self.spec.check.against
        known = ["auto", "oracle", "none", *(backend.name for backend in self.arguments.workload.backends)]
        if against not in known:
            self._fail(unknown("backend", against, known, of=self.spec.workload), "check", "against")
        groupable = list(dict.fromkeys([*plan.names, *plan.constants, "backend"]))
        for index, name in enumerate(self.spec.pareto.group if self.spec.pareto else ()):
            if name not in groupable:
                self._fail(unknown("axis", name, groupable, of="this sweep"), "pareto", "group", index)
        for name, value in (self.spec.against or {}).items():
            values = plan.values_of(name)
            if name not in groupable:
                self._fail(unknown("axis", name, groupable, of="this sweep"), "against", name)
            elif canonical(value) not in map(canonical, values):
                self._fail(f"no cell has {name}: {show(value)}; it is {known_list(map(show, values))}", "against", name)

    def _is_known(self, name: str, what: str, *path: str | int) -> bool:
        try:
            self.arguments.check_name(name, what)
        except ArgumentError as error:
            self._fail(str(error), *path)
            return False
        return True

    def _value(self, name: str, value: Any, *path: str | int) -> Any:
        try:
            return self.arguments.coerce(name, value)
        except ArgumentError as error:
            self._fail(str(error), *path)
            return value

    def _row_value(self, name: str, value: Any, *path: str | int) -> Any:
        if not is_scalar(value) and (name in self.spec.axes or name in self.spec.zip_names):
            self._fail(f"got {show(value)}; {name} is an axis of the grid, so a row has one value of it", *path)
            return value
        if isinstance(value, float) and math.isnan(value):
            self._fail("got .nan, which equals nothing, not even itself; no cell can be told by it", *path)
            return value
        return self._value(name, value, *path)

    def _refuse_repeats(self, rows: Sequence[Mapping[str, Scalar]], *path: str | int) -> None:
        first_at: dict[str, int] = {}
        for index, row in enumerate(rows):
            first = first_at.setdefault(canonical(row), index)
            if first != index:
                text = " ".join(f"{name}={show(value)}" for name, value in row.items())
                place = format_path((*path, first))
                self._fail(f"{text} is there already, as {place}; the same cells twice", *path, index)

    def _fail(self, message: str, *path: str | int) -> None:
        self.problems.append(ConfigError(message, self.sweep.locate(*path)))


def _promoted(
    axis_names: Sequence[str], constants: Mapping[str, Any], extras: Sequence[Mapping[str, Any]]
) -> list[str]:
    promoted = []
    for name in dict.fromkeys(name for extra in extras for name in extra if name not in axis_names):
        values = [source[name] for source in (constants, *extras) if name in source]
        is_constant = name in constants and len(set(map(canonical, values))) == 1
        if not is_constant:
            promoted.append(name)
    return promoted
