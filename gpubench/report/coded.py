"""Columns of values that repeat: each value once, and a number per row."""

from __future__ import annotations

from typing import Any

import pandas as pd

__all__ = ["coded"]


def coded(values: pd.Series) -> dict[str, list[Any]]:
    """Each distinct value once, in order of appearance, and its number per row. 1, 1.0 and True stay apart."""
    numbers: dict[tuple[type, Any], int] = {}
    codes = []
    for value in values.tolist():
        known = None if value is None or value != value else value  # noqa: PLR0124 (NaN is not itself)
        codes.append(numbers.setdefault((type(known), known), len(numbers)))
    return {"values": [_whole(value) for _, value in numbers], "codes": codes}


def _whole(value: Any) -> Any:
    """An integer that a frame had to keep as a float, because some row has none."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
