"""Which dimension of a value is the tokens', as the trace knows: what is padded, cut to the real tokens, or zeroed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gpubench.errors import Unsupported

__all__ = ["Rows", "rows_between", "rows_of"]


@dataclass(frozen=True)
class Rows:
    """The dimension that holds the tokens, with so many rows for each."""

    dim: int
    per_token: int

    def first(self, value: Tensor, num_tokens: int) -> Tensor:
        """The rows of the first tokens: a view, and the value itself if these are all."""
        rows = num_tokens * self.per_token
        return value if value.shape[self.dim] == rows else value.narrow(self.dim, 0, rows)

    def after(self, value: Tensor, num_tokens: int) -> Tensor:
        """The rows of the tokens after those: padding."""
        rows = num_tokens * self.per_token
        return value.narrow(self.dim, rows, value.shape[self.dim] - rows)

    def shape(self, example: Tensor, num_tokens: int) -> tuple[int, ...]:
        """The shape of a value like `example`, which has any number of tokens, for so many."""
        sizes = (num_tokens * self.per_token if dim == self.dim else size for dim, size in enumerate(example.shape))
        return tuple(int(size) for size in sizes)


def rows_of(example: Any, num_tokens: Any) -> Rows | None:
    """Where the tokens are in a traced value; None if it has none. `num_tokens` is the trace's symbol for their number.

    Unsupported if it has them in more than one dimension, or not so many rows for each.
    """
    if not isinstance(example, Tensor):
        return None
    shape: tuple[Any, ...] = tuple(example.shape)
    # Others are a state's sizes, left open: of no concern to the tokens.
    found = [(dim, size) for dim, size in enumerate(shape) if isinstance(size, torch.SymInt) and _has(size, num_tokens)]
    if not found:
        return None
    (dim, size), *others = found
    per_token = size.node.expr / num_tokens
    if others or not per_token.is_Integer:
        raise Unsupported(f"piecewise: a value of shape {tuple(example.shape)} has no rows that belong to one token")
    return Rows(dim, int(per_token))


def _has(size: Any, symbol: Any) -> bool:
    return symbol in size.node.expr.free_symbols


def rows_between(example: Any, num_tokens: int, other: Any, other_tokens: int) -> Rows | None:
    """Where the tokens are in a value traced for two numbers of them; None if it has none, or `other` is none."""
    if not isinstance(example, Tensor) or not isinstance(other, Tensor):
        return None
    found = [dim for dim, sizes in enumerate(zip(example.shape, other.shape, strict=True)) if sizes[0] != sizes[1]]
    if not found:
        return None
    dim, *others = found
    per_token, rest = divmod(example.shape[dim], num_tokens)
    if others or rest or other.shape[dim] != per_token * other_tokens:
        raise Unsupported(f"piecewise: a value of shape {tuple(example.shape)} has no rows that belong to one token")
    return Rows(dim, per_token)
