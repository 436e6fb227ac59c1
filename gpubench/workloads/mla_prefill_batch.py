"""Who has which rows of a prefill's batch: new tokens, prefixes, padding, drawn from the axes alone."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from gpubench.errors import ArgumentError
from gpubench.workloads.sizes import check_sizes

__all__ = ["Batch", "Lengths", "deal"]

Lengths = Literal["equal", "ragged"]

_PADDED_SHARE = 16
"""A ragged batch has one padded row in so many."""


@dataclass(frozen=True)
class Batch:
    """Who has which rows: known to the host, so that nothing has to be read back."""

    tokens: int
    """Rows, padding included."""
    new: tuple[int, ...]
    """New tokens of each sequence."""
    keys: tuple[int, ...]
    """Tokens that each sequence sees: its prefix and the new ones."""

    @property
    def padding(self) -> int:
        return self.tokens - sum(self.new)

    @property
    def pairs(self) -> int:
        """Of a query and a key that it sees."""
        return sum(new * (keys - new) + new * (new + 1) // 2 for new, keys in zip(self.new, self.keys, strict=True))

    @property
    def is_equal(self) -> bool:
        return len(set(self.new)) == len(set(self.keys)) == 1

    def spans(self) -> Iterator[tuple[slice, slice]]:
        """Rows of q and of the cache, sequence by sequence."""
        rows, keys = (itertools.starmap(slice, itertools.pairwise(ends)) for ends in self.offsets())
        yield from zip(rows, keys, strict=True)

    def offsets(self) -> tuple[list[int], list[int]]:
        """cu_q and cu_k."""
        return [0, *itertools.accumulate(self.new)], [0, *itertools.accumulate(self.keys)]


def deal(tokens: int, sequences: int, prefix: int, lengths: Lengths) -> Batch:
    """The batch that the arguments stand for, the same one every time."""
    check_sizes(tokens=tokens, sequences=sequences)
    check_sizes(0, prefix=prefix)
    if sequences > tokens:
        raise ArgumentError(f"sequences: {sequences} share {tokens} tokens; wanted from 1 to {tokens}")
    if lengths == "equal":
        if tokens % sequences:
            raise ArgumentError(f"sequences: {tokens} tokens can't be dealt equally to {sequences}; wanted a divisor")
        new = (tokens // sequences,) * sequences
        return Batch(tokens, new, tuple(prefix + n for n in new))
    draw = random.Random(f"{tokens} {sequences} {prefix}")  # noqa: S311 - no secrets
    real = tokens - min(tokens // _PADDED_SHARE, tokens - sequences)
    cuts = [0, *sorted(draw.sample(range(1, real), sequences - 1)), real]
    new = tuple(b - a for a, b in itertools.pairwise(cuts))
    return Batch(tokens, new, tuple(n + draw.randint(0, 2 * prefix) for n in new))
