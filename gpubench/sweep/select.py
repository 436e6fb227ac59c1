"""`--only axis=value`: a part of a grid, its cells numbered and named as in the whole."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from gpubench.errors import ConfigError, UsageError
from gpubench.predicates import Comparison, Predicate, PredicateError, parse_condition
from gpubench.records import Cell, Scalar
from gpubench.scalars import axis_value, format_scalar, parse_scalar
from gpubench.sweep.document import parse_node
from gpubench.sweep.expand import Grid, shown_arguments
from gpubench.sweep.problems import known_list, nearest, unknown

__all__ = ["parse_value", "select"]

_FLAG = re.compile(r"(?P<name>[^=<>!]+)(?P<condition>[=<>!].*)", re.DOTALL)
_OPERATORS = (">", "<", "!=", "==")


def select(grid: Grid, only: Sequence[str]) -> Grid:
    """The cells that every `--only` allows: `backend=triton,torch`, `batch=>8`, `batch>=8`, `cell=13`, `cell=<id>`.

    A comma separates alternatives, but not within brackets: `buckets=[16, 64]`. `UsageError` names the flag if it can't
    be meant or if nothing is selected.
    """
    cells = list(grid.cells)
    for text in only:
        allows = _parse(grid, text)
        if not any(map(allows, grid.cells)):
            raise UsageError(f"--only {text}: {_nothing(grid, text)}")
        cells = [cell for cell in cells if allows(cell)]
    if not cells:
        flags = " ".join(f"--only {text}" for text in only)
        raise UsageError(
            f"{flags}: no cell fits all of these at once; alternatives of one axis go into one flag, as in backend=a,b"
        )
    return replace(grid, cells=tuple(cells))


def _parse(grid: Grid, text: str) -> Callable[[Cell], bool]:
    name, alternatives = _split(text)
    if name == "cell":
        return _cell_filter(text, alternatives)
    values = grid.values_of(name)
    if not values:
        raise UsageError(f"--only {text}: {unknown('axis', name, [*_argument_names(grid), 'cell'])}")
    try:
        predicate = Predicate({name: tuple(each for part in alternatives for each in _comparisons(name, part))})
        predicate.check({name: values})
    except PredicateError as error:
        raise UsageError(f"--only {text}: {error}") from None
    return lambda cell: predicate.matches(shown_arguments(cell))


def _split(text: str) -> tuple[str, list[str]]:
    match = _FLAG.fullmatch(text)
    if not match:
        raise UsageError(f"--only {text}: want axis=value, as in --only backend=triton")
    condition = match["condition"]
    if condition.startswith("=") and not condition.startswith("=="):
        condition = condition[1:]
    return match["name"].strip(), [part.strip() for part in _split_outside_brackets(condition)]


def _split_outside_brackets(text: str) -> list[str]:
    parts, depth = [""], 0
    for character in text:
        depth += (character in "[{") - (character in "]}")
        if character == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _comparisons(name: str, part: str) -> list[Comparison]:
    """A value is meant as YAML reads it, or as the very text: `8` is 8 and "8"."""
    if part.startswith(_OPERATORS):
        return list(parse_condition(name, part))
    try:
        value = parse_value(part)
    except ValueError as error:
        raise PredicateError(name, f"{part!r} is {error}") from None
    return [Comparison("==", value), Comparison("==", part)]


def parse_value(text: str) -> Scalar:
    """The value of an axis as a flag has it, which is YAML; a list or mapping as axes have it. ValueError says what it
    is instead."""
    return axis_value(_parse_list(text)) if text.startswith(("[", "{")) else parse_scalar(text)


def _parse_list(text: str) -> Any:
    try:
        return parse_node(text, "").plain()
    except ConfigError as error:
        raise ValueError(error.message) from None


def _cell_filter(text: str, alternatives: list[str]) -> Callable[[Cell], bool]:
    numbers = {part.removeprefix("cell_") for part in alternatives}
    if not all(part.removeprefix("cell_")[:1].isdigit() for part in alternatives):
        raise UsageError(f"--only {text}: want a cell's number or its id, as in --only cell=13")
    indices = {int(number) for number in numbers if number.isdecimal() and len(number) < 10}
    return lambda cell: cell.index in indices or cell.cell_id in alternatives


def _argument_names(grid: Grid) -> list[str]:
    names = dict.fromkeys(grid.names)
    for cell in grid.cells:
        names.update(dict.fromkeys(["backend", *cell.params]))
    return list(names)


def _nothing(grid: Grid, text: str) -> str:
    name, alternatives = _split(text)
    if name == "cell":
        return f"no such cell; the grid's are {grid.cells[0].cell_id} to {grid.cells[-1].cell_id}"
    known = [format_scalar(value) for value in grid.values_of(name)]
    close = nearest(alternatives[0], known)
    guess = f" did you mean {close!r}?" if close else ""
    return f"no cell fits;{guess} {name} takes: {known_list(known)}"
