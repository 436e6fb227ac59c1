"""Commands with `{axis}` placeholders, filled in so that every value arrives exactly as it was written.

Values appear as YAML and JSON write them: `true`, `null`, `0.5`; strings as they are; lists and mappings as JSON.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from gpubench.errors import ArgumentError

__all__ = ["fill", "fill_arguments", "fill_shell_line"]

_NAME = r"[^\W\d][\w-]*"
_MARK = re.compile(rf"\{{\{{|\}}\}}|\{{(?P<name>{_NAME})\}}|[{{}}]")

# A shell line cut into what quotes, what a quote would break, and placeholders outside of both.
_SHELL_PIECE = re.compile(
    r"""(?P<escaped>\\(?:\{\{|\}\}|[^{}]))
    |(?P<quoted>'[^']*'|"(?:\\.|[^"\\])*"|`(?:\\.|[^`\\])*`|(?:^|(?<=[\s;&|()]))\#[^\n]*)
    |(?P<open>['"`\\]|<<)
    |(?P<plain>(?:[^\\'"`<\#]|<(?!<)|(?<![\s;&|()])\#)+)""",
    re.VERBOSE | re.DOTALL,
)


def fill(template: str, values: Mapping[str, Any]) -> str:
    """The template with its placeholders replaced; ArgumentError names an unknown one and those there are."""
    return _substitute(template, values, str)


def fill_arguments(command: str | Sequence[str], values: Mapping[str, Any]) -> list[str]:
    """The words of a command, to be run without a shell; a value never splits a word or joins two."""
    if isinstance(command, str):
        try:
            command = shlex.split(command)
        except ValueError as error:
            raise ArgumentError(f"command: {command!r} can't be split into words: {error}") from None
    words = [fill(word, values) for word in command]
    if not words:
        raise ArgumentError("command: it is empty; write the program to run and its arguments")
    return words


def fill_shell_line(line: str, values: Mapping[str, Any]) -> str:
    """A line for /bin/sh with every value quoted for it.

    A placeholder must stand outside of quotes, backquotes and comments, and there may be no here-document besides:
    there the quotes that protect the value would mean something else.
    """
    if not _MARK.search(line):
        return line
    filled = []
    position = 0
    while position < len(line):
        piece = _SHELL_PIECE.match(line, position)
        assert piece is not None, "the pieces cover every character"
        if piece["open"]:
            raise ArgumentError(
                f"command: {line!r}: values can't be quoted safely after {piece[0]!r}; with placeholders in the line, "
                "close every quote, and have no here-document and no backslash before a placeholder"
            )
        quote = shlex.quote if piece["plain"] else _refuse_quoted(piece[0])
        filled.append(_substitute(piece[0], values, quote))
        position = piece.end()
    return "".join(filled)


def _refuse_quoted(piece: str) -> Callable[[str], str]:
    def refuse(value: str) -> str:
        raise ArgumentError(
            f"command: a placeholder stands inside {piece!r}; values are quoted when they are filled in, so write it "
            "outside of quotes, or drop shell: true"
        )

    return refuse


def _substitute(template: str, values: Mapping[str, Any], quote: Callable[[str], str]) -> str:
    def replace(mark: re.Match[str]) -> str:
        if mark[0] in ("{{", "}}"):
            return mark[0][0]
        name = mark["name"]
        if name is None:
            raise ArgumentError(f"command: {template!r} has a lone {mark[0]!r}; write {mark[0] * 2!r} for a brace")
        if name not in values:
            raise ArgumentError(f"command: no axis or param for the placeholder {{{name}}}{_suggest(name, values)}")
        text = _as_text(values[name])
        if "\0" in text:
            raise ArgumentError(f"command: the value of {{{name}}} has a NUL byte, which no command can be given")
        return quote(text)

    return _MARK.sub(replace, template)


def _suggest(name: str, values: Mapping[str, Any]) -> str:
    close = get_close_matches(name, values, n=1)
    question = f"; did you mean {{{close[0]}}}?" if close else ";"
    return f"{question} known: {', '.join(values) or 'none'}; write {{{{{name}}}}} for the braces themselves"


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
