"""Telling users what is wrong with a sweep: every problem at once, each with its place and the way out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from gpubench.errors import ConfigError

__all__ = ["known_list", "nearest", "raise_problems", "show", "unknown"]

_LONGEST_VALUE = 60
_LONGEST_LIST = 40


def raise_problems(problems: Sequence[ConfigError]) -> None:
    """Raise what was found: nothing, the one problem, or one error with a line for each, as the file has them."""
    by_line = sorted(problems, key=lambda problem: (problem.location and problem.location.line) or 0)
    distinct = list({str(problem): problem for problem in by_line}.values())
    if len(distinct) == 1:
        raise distinct[0]
    if distinct:
        raise ConfigError("\n".join(map(str, distinct)))


def unknown(what: str, name: object, known: Iterable[object], of: str = "") -> str:
    """`unknown backend 'tritn' of mla_decode; did you mean 'triton'? known: torch, triton`."""
    names = [str(each) for each in known]
    close = nearest(str(name), names)
    guess = f" did you mean {close!r}?" if close else ""
    return f"unknown {what} {show(name)}{f' of {of}' if of else ''};{guess} known: {known_list(names)}"


def nearest(name: str, known: Iterable[str], likeness: float = 0.6) -> str | None:
    """The known name that a mistyped one most resembles, at least as much as `likeness` (1 is the same)."""
    by_lower = {each.lower(): each for each in known}
    close = difflib.get_close_matches(name[:_LONGEST_VALUE].lower(), by_lower, n=1, cutoff=likeness)
    return by_lower[close[0]] if close else None


def known_list(names: Iterable[object]) -> str:
    """Names in a row, cut short when there are too many to read."""
    shown = [str(name) for name in names]
    more = f", … ({len(shown) - _LONGEST_LIST} more)" if len(shown) > _LONGEST_LIST else ""
    return (", ".join(shown[:_LONGEST_LIST]) or "none") + more


def show(value: object) -> str:
    """A value as a message quotes it: on one line, and cut short."""
    words = {None: "null", True: "true", False: "false"}
    text = words[value] if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 1] + "…"
