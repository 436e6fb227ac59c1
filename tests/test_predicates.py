"""A predicate says which cells are meant."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpubench.predicates import PredicateError, parse_predicate

VALUES = {"batch": 8, "isl": 4096, "backend": "triton", "gvr": False, "scale": 0.5, "window": None}


@pytest.mark.parametrize(
    "conditions",
    [
        {"batch": 8},
        {"batch": 8.0},
        {"batch": "==8"},
        {"batch": "== 8"},
        {"batch": ">4"},
        {"batch": ">=8"},
        {"batch": "<=8"},
        {"batch": "<1e1"},
        {"batch": "!=9"},
        {"batch": "!=true"},
        {"batch": [1, 8]},
        {"batch": ["<2", ">7"]},
        {"backend": "triton"},
        {"backend": "!=torch"},
        {"backend": ["torch", "triton"]},
        {"gvr": False},
        {"gvr": "==false"},
        {"window": None},
        {"window": "==null"},
        {"scale": "<1", "backend": "triton", "isl": ">=4096"},
    ],
)
def test_a_predicate_that_is_true_of_a_cell_matches(conditions: dict[str, Any]) -> None:
    assert parse_predicate(conditions).matches(VALUES)


@pytest.mark.parametrize(
    "conditions",
    [
        {"batch": 9},
        {"batch": "8"},
        {"batch": "text"},
        {"batch": True},
        {"batch": ">8"},
        {"batch": "!=8"},
        {"batch": [1, 2, "<8"]},
        {"gvr": 0},
        {"gvr": "<1"},
        {"gvr": None},
        {"window": "<1"},
        {"window": False},
        {"backend": "torch"},
        {"backend": "Triton"},
        {"backend": "triton", "batch": 9},
        {"elsewhere": None},
        {"elsewhere": "!=1"},
    ],
)
def test_a_predicate_that_is_false_of_a_cell_does_not_match(conditions: dict[str, Any]) -> None:
    assert not parse_predicate(conditions).matches(VALUES)


def test_a_text_that_starts_with_an_operator_can_be_asked_for() -> None:
    assert parse_predicate({"token": "==<pad>"}).matches({"token": "<pad>"})


@pytest.mark.parametrize(
    ("conditions", "axis", "message"),
    [
        ({}, "", "an empty predicate would match everything; name an axis and its value"),
        ({"a": []}, "a", "an empty list matches nothing; list at least one value"),
        ({"a": {"b": 1}}, "a", "want a value, a comparison or a list of them, got {'b': 1}"),
        ({"a": [[1]]}, "a", "want a value, a comparison or a list of them, got [1]"),
        ({"a": ">"}, "a", "> compares numbers, got ''; for that very text write '==>'"),
        ({"a": "<=x"}, "a", "<= compares numbers, got 'x'; for that very text write '==<=x'"),
        ({"a": ">99999999999999999999"}, "a", "'99999999999999999999' is an integer of more than 64 bits"),
    ],
)
def test_what_is_no_predicate_is_refused(conditions: dict[str, Any], axis: str, message: str) -> None:
    with pytest.raises(PredicateError) as caught:
        parse_predicate(conditions)
    assert (caught.value.axis, str(caught.value)) == (axis, message)


def test_texts_cannot_be_put_in_order() -> None:
    predicate = parse_predicate({"backend": ">3"})
    with pytest.raises(PredicateError) as caught:
        predicate.check({"backend": ["torch", None, True]})
    assert str(caught.value) == "> compares numbers, and backend has none; name its values instead: torch, null, true"


def test_an_axis_with_some_numbers_can_be_put_in_order() -> None:
    parse_predicate({"split": ">3", "elsewhere": ">1"}).check({"split": ["auto", 4]})


numbers = st.integers(-1000, 1000) | st.floats(-1000, 1000)


@given(numbers, numbers)
def test_orderings_agree_with_arithmetic(value: float, operand: float) -> None:
    holds = {
        symbol: parse_predicate({"a": f"{symbol}{operand}"}).matches({"a": value})
        for symbol in (">", ">=", "<", "<=", "==", "!=")
    }
    assert holds == {
        ">": value > operand,
        ">=": value >= operand,
        "<": value < operand,
        "<=": value <= operand,
        "==": value == operand,
        "!=": value != operand,
    }


@given(st.one_of(st.booleans(), st.integers(-2, 2), st.none(), st.sampled_from(["0", "1", "true", "x"])))
def test_a_value_matches_itself_and_not_its_opposite(value: bool | int | str | None) -> None:
    assert parse_predicate({"a": value}).matches({"a": value})
    assert parse_predicate({"a": [value, "never"]}).matches({"a": value})
    if isinstance(value, bool):
        assert not parse_predicate({"a": value}).matches({"a": not value})
        assert not parse_predicate({"a": value}).matches({"a": int(value)})
