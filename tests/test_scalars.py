"""Scalars mean what YAML 1.2's core schema says, and nothing that YAML 1.1 guessed."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpubench.scalars import parse_number, parse_scalar


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("~", None),
        ("null", None),
        ("Null", None),
        ("NULL", None),
        ("nULL", "nULL"),
        ("true", True),
        ("True", True),
        ("TRUE", True),
        ("false", False),
        ("tRUE", "tRUE"),
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("no", "no"),
        ("y", "y"),
        ("0", 0),
        ("-0", 0),
        ("+12", 12),
        ("-19", -19),
        ("013", 13),
        ("0o17", 15),
        ("0o18", "0o18"),
        ("-0o17", "-0o17"),
        ("0x1F", 31),
        ("0xg", "0xg"),
        ("0b11", "0b11"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("190:20:30", "190:20:30"),
        ("2026-01-01", "2026-01-01"),
        ("1e-2", 0.01),
        ("1E3", 1000.0),
        ("+12e03", 12000.0),
        ("0.", 0.0),
        (".5", 0.5),
        ("-.5", -0.5),
        ("-2E+05", -200000.0),
        (".", "."),
        ("e5", "e5"),
        ("1e", "1e"),
        (".inf", math.inf),
        ("+.INF", math.inf),
        ("-.Inf", -math.inf),
        ("inf", "inf"),
        ("nan", "nan"),
        ("١٢", "١٢"),
        ("9223372036854775807", 2**63 - 1),
        ("-9223372036854775808", -(2**63)),
        ("0" * 5000 + "7", 7),
    ],
)
def test_a_plain_scalar_follows_the_core_schema(text: str, value: object) -> None:
    parsed = parse_scalar(text)
    assert (parsed, type(parsed)) == (value, type(value))


@pytest.mark.parametrize("text", [".nan", ".NaN", ".NAN"])
def test_not_a_number_is_a_number(text: str) -> None:
    assert math.isnan(parse_number(text) or 0)


@pytest.mark.parametrize(
    "text", ["9223372036854775808", "-9223372036854775809", "1" * 5000, "0x1" + "0" * 16, "0o7" + "0" * 5000, "1e999"]
)
def test_a_number_that_nothing_can_hold_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"64 bits|double"):
        parse_scalar(text)


@given(st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.booleans() | st.none())
def test_whatever_json_writes_is_read_back(value: object) -> None:
    assert parse_scalar(json.dumps(value)) == value
