"""Which cells are meant: `{backend: torch, isl: ">4096"}`, as `exclude`, `--only` and the fault workload read it.

A predicate names axes and what their values must be: a value itself, a comparison (`">4096"`, `">=8"`, `"<3"`,
`"<=3"`, `"!=x"`, `"==x"`), or a list of these, any of which will do. All axes named must match. 1 equals 1.0, and
true equals only true. To ask for a text that starts with an operator, write `"==<pad>"`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from gpubench.records import Scalar
from gpubench.scalars import format_scalar, parse_number, parse_scalar

__all__ = ["Comparison", "Predicate", "PredicateError", "parse_condition", "parse_predicate"]

_ORDERINGS: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_OPERATORS = (">=", "<=", "==", "!=", ">", "<")


class PredicateError(ValueError):
    """A predicate that can't be meant; `axis` names the condition at fault ("" for the whole)."""

    def __init__(self, axis: str, message: str) -> None:
        self.axis = axis
        super().__init__(message)


@dataclass(frozen=True)
class Comparison:
    """One value held against another: `== != > >= < <=`."""

    operator: str
    operand: Scalar

    def holds(self, value: Scalar) -> bool:
        """Whether it is true of a value. An ordering is false of anything but a number."""
        if self.operator in _ORDERINGS:
            return _is_number(value) and _ORDERINGS[self.operator](value, self.operand)
        return _equal(value, self.operand) is (self.operator == "==")


@dataclass(frozen=True)
class Predicate:
    """Conditions by axis: each a tuple of comparisons, one of which must hold."""

    conditions: Mapping[str, tuple[Comparison, ...]]

    def matches(self, values: Mapping[str, Scalar]) -> bool:
        """Whether all conditions hold. An axis that is missing from `values` matches nothing."""
        return all(
            axis in values and any(comparison.holds(values[axis]) for comparison in comparisons)
            for axis, comparisons in self.conditions.items()
        )

    def check(self, values: Mapping[str, Collection[Scalar]]) -> None:
        """Hold the predicate against what each axis can be: `PredicateError` if texts would be put in order."""
        for axis, comparisons in self.conditions.items():
            taken = values.get(axis, ())
            for comparison in comparisons:
                if comparison.operator in _ORDERINGS and taken and not any(map(_is_number, taken)):
                    raise PredicateError(
                        axis,
                        f"{comparison.operator} compares numbers, and {axis} has none; "
                        f"name its values instead: {', '.join(map(format_scalar, taken))}",
                    )


def parse_predicate(mapping: Mapping[str, Any]) -> Predicate:
    """Read a predicate as a sweep writes it; `PredicateError` if a condition is neither value, comparison nor list."""
    if not mapping:
        raise PredicateError("", "an empty predicate would match everything; name an axis and its value")
    return Predicate({axis: parse_condition(axis, condition) for axis, condition in mapping.items()})


def parse_condition(axis: str, condition: Any) -> tuple[Comparison, ...]:
    """Read the condition of one axis: what any of the comparisons given back must allow."""
    if isinstance(condition, list | tuple):
        if not condition:
            raise PredicateError(axis, "an empty list matches nothing; list at least one value")
        return tuple(_comparison(axis, element) for element in condition)
    return (_comparison(axis, condition),)


def _comparison(axis: str, element: Any) -> Comparison:
    if isinstance(element, str):
        symbol = next((symbol for symbol in _OPERATORS if element.startswith(symbol)), None)
        if symbol:
            return Comparison(symbol, _operand(axis, symbol, element.removeprefix(symbol).strip()))
    elif not (element is None or isinstance(element, bool | int | float)):
        raise PredicateError(axis, f"want a value, a comparison or a list of them, got {element!r}")
    return Comparison("==", element)


def _operand(axis: str, symbol: str, text: str) -> Scalar:
    try:
        operand = parse_scalar(text) if symbol in ("==", "!=") else parse_number(text)
    except ValueError as error:
        raise PredicateError(axis, f"{text!r} is {error}") from None
    if operand is None and symbol in _ORDERINGS:
        raise PredicateError(
            axis, f"{symbol} compares numbers, got {text!r}; for that very text write '=={symbol}{text}'"
        )
    return operand


def _equal(left: Scalar, right: Scalar) -> bool:
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    return left == right


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
