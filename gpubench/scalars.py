"""Plain scalars as YAML 1.2's core schema reads them (https://yaml.org/spec/1.2.2/#1032-tag-resolution).

`on`, `yes`, `1:30` and `2026-01-01` are strings, `013` is 13, `1e-2` is a number.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from typing import Any

from gpubench.records import Scalar

__all__ = ["axis_value", "format_scalar", "parse_number", "parse_scalar"]

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_TRUE = frozenset({"true", "True", "TRUE"})
_FALSE = frozenset({"false", "False", "FALSE"})
_INT = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITY = re.compile(r"([-+]?)\.(inf|Inf|INF)")
_NAN = frozenset({".nan", ".NaN", ".NAN"})
_MAX_DIGITS = 20
_LONGEST_LIST = 40
"""Of a list or mapping as an axis shows it: more would push everything else off a table."""
_DIGEST_DIGITS = 6


def axis_value(value: Any) -> Scalar:
    """What stands for an argument on an axis: a scalar for itself, a list or mapping as JSON.

    Different values have different texts: `[16, 64, 256]`, `{"uniform": [64, 256]}`; of a long one the beginning and a
    digest of the whole.
    """
    if not isinstance(value, list | dict):
        scalar: Scalar = value
        return scalar
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    if len(text) <= _LONGEST_LIST:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_DIGITS]
    beginning = text[: _LONGEST_LIST - _DIGEST_DIGITS - 3]
    return f"{beginning.rpartition(', ')[0] or beginning}… #{digest}"


def format_scalar(value: Scalar) -> str:
    """As YAML has it: `true`, `null`, `0.5`, `TEP`."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def parse_scalar(text: str) -> Scalar:
    """The value of a plain scalar. `ValueError` for a number that neither 64 bits nor a double can hold."""
    if text in _NULL:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    number = parse_number(text)
    return text if number is None else number


def parse_number(text: str) -> int | float | None:
    """The number that a plain scalar is, or None. `ValueError` as in `parse_scalar`."""
    if _INT.fullmatch(text):
        return _bounded_int(text, 10)
    if _OCTAL.fullmatch(text):
        return _bounded_int(text[2:], 8)
    if _HEX.fullmatch(text):
        return _bounded_int(text[2:], 16)
    if _FLOAT.fullmatch(text):
        return _finite_float(text)
    if infinity := _INFINITY.fullmatch(text):
        return -math.inf if infinity[1] == "-" else math.inf
    return math.nan if text in _NAN else None


def _bounded_int(digits: str, base: int) -> int:
    # Python refuses to convert thousands of digits, and torch, JSON readers and pandas stop at 64 bits.
    significant = digits.lstrip("+-").lstrip("0") or "0"
    value = int(digits[0] * (digits[0] in "+-") + significant, base) if len(significant) <= 3 * _MAX_DIGITS else None
    if value is None or not -(2**63) <= value < 2**63:
        raise ValueError("an integer of more than 64 bits")
    return value


def _finite_float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError("a number beyond what a double holds; write .inf if infinity is meant")
    return value
