"""What users ask for: how long each request's prompt and answer are, and prompts of random tokens.

A length is a number, or drawn evenly from `{uniform: [low, high]}`, both ends included. Or both lengths of a request
come from a CSV file with the columns `isl` and `osl`, one request to a row, in the order in which users send them: the
k-th request of user u is row u + k · users, beginning again after the last.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpubench.errors import ArgumentError

__all__ = ["Lengths", "PairsFile", "Prompts", "Wanted", "make_prompts", "parse_wanted"]

COLUMNS = ["isl", "osl"]
"""The head of a file of pairs."""
MOST_DIGITS = 12
"""Of a number of tokens in one: Python refuses to read thousands of digits, and nobody could read the error."""

Ints = NDArray[np.int64]
Range = tuple[int, int]
"""The least and the greatest that a length can be."""


@dataclass(frozen=True)
class Lengths:
    """Tokens of every request, [users, requests of each]."""

    isl: Ints
    """Of its prompt."""
    osl: Ints
    """Of its answer."""

    @property
    def users(self) -> int:
        return int(self.isl.shape[0])

    @property
    def requests(self) -> int:
        """Of each user."""
        return int(self.isl.shape[1])

    @property
    def capacity(self) -> int:
        """Tokens that the longest request takes, prompt and answer together."""
        return int((self.isl + self.osl).max())


@dataclass(frozen=True)
class PairsFile:
    """A file of pairs as it was read."""

    name: str
    pairs: list[Range]
    digest: str
    """The first digits of its content's SHA-256."""

    @property
    def words(self) -> str:
        return f"{self.name}, {len(self.pairs):,} pairs, sha256 {self.digest}…"


@dataclass(frozen=True)
class Wanted:
    """Lengths as they were asked for: two ranges, or a file."""

    isl: Range
    osl: Range
    pairs: PairsFile | None = None

    @property
    def longest(self) -> Range:
        """Prompt and answer of the request that takes most tokens."""
        return (self.isl[1], self.osl[1]) if self.pairs is None else max(self.pairs.pairs, key=sum)

    def draw(self, users: int, requests: int) -> Lengths:
        """Those of `requests` requests of each user: from torch's current seed, or as the file has them."""
        if self.pairs is None:
            ranges = (self.isl, self.osl)
            drawn = [torch.randint(low, high + 1, (users, requests), device="cpu").numpy() for low, high in ranges]
            return Lengths(*drawn)
        order = np.arange(users)[:, None] + users * np.arange(requests)
        dealt = np.array(self.pairs.pairs, dtype=np.int64)[order % len(self.pairs.pairs)]
        return Lengths(dealt[..., 0], dealt[..., 1])


def parse_wanted(isl: Any, osl: Any, pairs: str | None) -> Wanted:
    """What the three arguments ask for; ArgumentError names the one that can't be meant, and its value."""
    if pairs is None:
        return Wanted(_parse_length("isl", isl), _parse_length("osl", osl))
    for name, given in (("isl", isl), ("osl", osl)):
        if given is not None:
            raise ArgumentError(
                f"{name}: {given!r} beside pairs: {pairs}, which has every request's lengths; leave one out"
            )
    file = _read_pairs(pairs)
    isls, osls = zip(*file.pairs, strict=True)
    return Wanted((min(isls), max(isls)), (min(osls), max(osls)), file)


def _parse_length(name: str, given: Any) -> Range:
    """The least and the greatest of what `isl` or `osl` may be; ArgumentError names it and what it got."""
    if type(given) is int:
        return _checked(name, given, given)
    if isinstance(given, Mapping) and list(given) == ["uniform"]:
        ends = given["uniform"]
        if isinstance(ends, Sequence) and len(ends) == 2 and all(type(end) is int for end in ends):
            return _checked(f"{name}.uniform", ends[0], ends[1])
    instead = "; or give pairs, a file of both lengths" if given is None else ""
    raise ArgumentError(f"{name}: wanted a number of tokens or {{uniform: [low, high]}}; got {given!r}{instead}")


def _checked(name: str, low: int, high: int) -> Range:
    if low < 1:
        raise ArgumentError(f"{name} is {low}; wanted at least 1")
    if high < low:
        raise ArgumentError(f"{name}: [{low}, {high}] ends below where it begins")
    return low, high


def _read_pairs(path: str) -> PairsFile:
    """Read a CSV file of pairs; ArgumentError names the file, the line and the value that is wrong."""
    try:
        content = Path(path).read_bytes()
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise ArgumentError(f"pairs: can't read {Path(path).absolute()}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ArgumentError(f"pairs: {path} is no text: {error.reason} at byte {error.start}") from error
    rows = csv.reader(text.splitlines(), strict=True, skipinitialspace=True)
    try:
        head = [name.strip() for name in next(rows, [])]
        if head != COLUMNS:
            raise ArgumentError(f"pairs: {path}:1: wanted the columns {','.join(COLUMNS)}; got {','.join(head)!r}")
        pairs = [_parse_row(f"pairs: {path}:{rows.line_num}", row) for row in rows if row]
    except csv.Error as error:
        raise ArgumentError(f"pairs: {path}:{rows.line_num}: {error}") from error
    if not pairs:
        raise ArgumentError(f"pairs: {path} has no pairs below its head")
    return PairsFile(Path(path).name, pairs, hashlib.sha256(content).hexdigest()[:12])


def _parse_row(place: str, row: list[str]) -> Range:
    if len(row) != len(COLUMNS):
        raise ArgumentError(f"{place}: wanted two numbers, isl,osl; got {','.join(row)!r}")
    for name, text in zip(COLUMNS, row, strict=True):
        number = text.strip()
        if not (number.isdecimal() and len(number) <= MOST_DIGITS and int(number) >= 1):
            shown = number if len(number) <= MOST_DIGITS else f"{number[:MOST_DIGITS]}…"
            raise ArgumentError(f"{place}: {name} is {shown!r}; wanted a whole number, at least 1")
    return int(row[0]), int(row[1])


@dataclass(frozen=True)
class Prompts:
    """The tokens of all prompts, one after another."""

    tokens: Tensor
    """int64, on the model's device."""
    starts: Ints
    """[users, requests]: where each begins."""

    def chunk(self, user: int, request: int, first: int, count: int) -> Tensor:
        """`count` tokens of a prompt, from its token `first` on: a view."""
        start = int(self.starts[user, request]) + first
        return self.tokens[start : start + count]


def make_prompts(lengths: Lengths, vocabulary: int) -> Prompts:
    """Random prompts from torch's current seed, on the default device."""
    ends = lengths.isl.cumsum().reshape(lengths.isl.shape)
    return Prompts(torch.randint(vocabulary, (int(ends[-1, -1]),)), ends - lengths.isl)
