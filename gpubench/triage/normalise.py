"""Texts without what differs from one death to the next: addresses, numbers, paths, sizes, template arguments."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

__all__ = ["normalise_file", "normalise_function", "normalise_kernel", "normalise_text"]

LONGEST = 20_000
"""Of a text that is looked at: what is longer says it at its beginning."""

_SUBSTITUTES = (
    (re.compile(r"\bcell_\d+[\w.+-]*"), "CELL"),
    (re.compile(r"\b0x[0-9a-fA-F]+\b"), "N"),  # an address, or a matrix without rows
    (re.compile(r"(?:/[\w.+@~-]+)+/([\w.+@~-]+)"), r"\1"),
    (re.compile(r"\btmp[a-z0-9_]{6,}\b"), "TMP"),
    (re.compile(r"\b(?:torch\.)?(?:bfloat|float|u?int|complex)\d+\w*"), "DTYPE"),
    (re.compile(r"\b(?:BFloat16|Half|Float|Double|Byte|Char|Short|Int|Long)\b"), "DTYPE"),
    (re.compile(r"(?<=maximum recursion depth exceeded) .*"), ""),
    # an identifier in hexadecimal, with or without hyphens; without a letter it is a number, which becomes the same
    (re.compile(r"(?<![.\w])(?=[\d-]*[a-f])(?=[a-f-]*\d)[\da-f]{6,}(?:-[\da-f]{4,})*\b", re.IGNORECASE), "N"),
    (re.compile(r"(?<![\w.)\]])[-+](?=\d)"), ""),
    (re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?(?:e[+-]?\d+)?"), "N"),
    (re.compile(r"\bN(?:(?:x|,\s*)N)+\b,?|\bN,(?=\s*[\])}])"), "N"),
    (re.compile(r"\[\s*N?\s*\]|[({]\s*N\s*[)}]"), "SIZE"),
    (re.compile(r"\s+"), " "),
)
_ANONYMOUS = re.compile(r"\(anonymous namespace\)::|<unnamed>::|::_GLOBAL__N_\w*")
_CLONE = re.compile(r"\s*\[clone [^\]]*\]")
_TILES = re.compile(r"\d+(?:x\d+)+")
_ARROWS = re.compile(r"operator\s*(?:<<=?|>>=?|<=>|<=?|>=?|->\*?)")


def normalise_text(text: str) -> str:
    """A message, its numbers, addresses, sizes, paths and cell ids replaced by a word."""
    text = text[:LONGEST]
    for pattern, word in _SUBSTITUTES:
        text = pattern.sub(word, text)
    return text.strip()


def normalise_kernel(kernel: str) -> str:
    """A kernel's name without return type, template arguments, parameters and tile sizes: `at::native::foo_kernel`."""
    name = _ARROWS.sub("operator", _CLONE.sub("", _ANONYMOUS.sub("", kernel[:LONGEST])))
    name = _outside_of_brackets(name).strip()
    return _TILES.sub("NxN", name.split()[-1] if name else "")


def normalise_file(file: str) -> str:
    """A file's name without its folders, which differ from machine to machine; `<string>` as it is."""
    return file if file.startswith("<") else PurePosixPath(file).name


def normalise_function(function: str) -> str:
    """A function's own name: faulthandler leaves out what it is nested in, a traceback doesn't."""
    return function.rpartition("<locals>.")[2].rpartition(".")[2] or function


def _outside_of_brackets(name: str) -> str:
    """What stands before the parameters and outside of `<…>`, whose brackets may be nested or torn off."""
    kept: list[str] = []
    depth = 0
    for character in name:
        if character == "<":
            depth += 1
        elif character == ">":
            depth = max(0, depth - 1)
        elif depth == 0:
            if character == "(":
                break
            kept.append(character)
    return "".join(kept)
