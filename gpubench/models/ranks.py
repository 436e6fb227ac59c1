"""One rank's share of a model, on one GPU and without the others: what is divided, and what stands in for their rows.

Nothing is communicated: where ranks would add up their parts of a sum, the own part goes on, and where they would
exchange rows, seeded ones stand in for those of the others. Shapes, and so times, are those of a rank; values aren't.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gpubench.errors import ArgumentError

__all__ = ["divide", "divide_kv_heads", "stand_ins"]


def divide(number: int, ranks: int, what: str) -> int:
    """One rank's part of `number`; ArgumentError if the parts can't be equal."""
    if ranks < 1 or number % ranks:
        raise ArgumentError(f"ranks: {ranks} don't divide {number} {what}; wanted a divisor of {number}")
    return number // ranks


def divide_kv_heads(kv_heads: int, ranks: int) -> int:
    """The same, but several ranks have a copy of one head where there are more of them than heads."""
    if ranks > kv_heads and ranks % kv_heads == 0:
        return 1
    if ranks < 1 or kv_heads % ranks:
        raise ArgumentError(
            f"ranks: {ranks} don't divide {kv_heads} KV heads; wanted a divisor or a multiple of {kv_heads}"
        )
    return kv_heads // ranks


def stand_ins(batch: int, ranks: int, hidden: int, like: Tensor) -> Tensor | None:
    """Rows that the other ranks send to this one's experts, `batch` from each: N(0, 1), of `like`'s dtype and device.

    Random ones, because copies of the own rows would be routed alike. None if there are no others.
    """
    if ranks == 1:
        return None
    return torch.randn(batch * (ranks - 1), hidden, dtype=like.dtype, device=like.device)
