"""What a cell is called: `cell_id`, unique in its grid and a file name, and `key`, the same in every run."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from gpubench.scalars import axis_value
from gpubench.sweep.arguments import canonical, is_scalar

__all__ = ["MAX_ID_LENGTH", "CellNamer", "cell_key"]

MAX_ID_LENGTH = 100
_MIN_DIGITS = 3
_LONGEST_WORD = 6
_UNSAFE = re.compile(r"[^A-Za-z0-9.+-]+")
_SHORT_NAMES = {
    "batch": "B",
    "columns": "N",
    "concurrency": "C",
    "heads": "H",
    "isl": "ISL",
    "k": "K",
    "osl": "OSL",
    "rows": "R",
    "tokens": "T",
    "tp": "TP",
}


def cell_key(workload: str, backend: str, arguments: Mapping[str, Any]) -> str:
    """16 hex digits of the question that a cell asks; it doesn't matter which arguments are swept."""
    question = canonical([workload, backend, arguments])
    return hashlib.sha256(question.encode()).hexdigest()[:16]


class CellNamer:
    """Makes the ids of a grid: `cell_013_C008_TEP_GVRF`.

    `varied` holds the values of every axis that has several, in the order of the id's parts. Numbers get a short
    name and are padded to the widest of their axis (at least three digits), so that ids sort as the numbers do.
    Lists and mappings get one too, and are joined by dashes: `BUCK16-64-256`.
    """

    def __init__(self, varied: Mapping[str, Sequence[Any]], num_indices: int) -> None:
        self._index_digits = max(_MIN_DIGITS, len(str(max(0, num_indices - 1))))
        self._short = _short_names([name for name, values in varied.items() if not all(map(_is_text, values))])
        self._digits = {name: _num_digits(values) for name, values in varied.items()}

    def name(self, index: int, values: Mapping[str, Any]) -> str:
        """The id of one cell; an axis that the cell doesn't have is left out."""
        parts = [self._part(name, values[name]) for name in self._digits if name in values]
        full = "_".join([f"cell_{index:0{self._index_digits}d}", *parts])
        if len(full) <= MAX_ID_LENGTH:
            return full
        return f"{full[: MAX_ID_LENGTH - 9]}-{_digest(full)[:8]}"

    def _part(self, name: str, value: Any) -> str:
        if isinstance(value, str):
            return _as_file_name(value)
        if not is_scalar(value):
            return self._short[name] + _as_file_name(str(axis_value(value)))
        if value is None:
            return self._short[name] + "none"
        if isinstance(value, bool):
            return self._short[name] + ("T" if value else "F")
        if isinstance(value, int):
            return self._short[name] + str(value).zfill(self._digits[name])
        return self._short[name] + repr(value).removesuffix(".0")


def _short_names(names: Sequence[str]) -> dict[str, str]:
    taken: dict[str, str] = {}
    for name in names:
        whole = "".join(re.findall(r"[A-Za-z0-9]+", name)).upper() or "AXIS"
        candidates = [_abbreviate(name) or whole, whole, *(f"{whole}{number}-" for number in range(2, len(names) + 2))]
        taken[name] = next(candidate for candidate in candidates if candidate not in taken.values())
    return taken


def _abbreviate(name: str) -> str:
    if name in _SHORT_NAMES:
        return _SHORT_NAMES[name]
    words: list[str] = re.findall(r"[A-Za-z0-9]+", name)
    if len(words) == 1:
        return words[0].upper() if len(words[0]) <= _LONGEST_WORD else words[0][:4].upper()
    return "".join(word[0] for word in words).upper()


def _as_file_name(text: str) -> str:
    return _UNSAFE.sub("-", text).strip("-.") or f"x{_digest(text)[:6]}"


def _num_digits(values: Sequence[Any]) -> int:
    widths = [len(str(value)) for value in values if isinstance(value, int) and not isinstance(value, bool)]
    return max([_MIN_DIGITS, *widths])


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
