"""Numbers of tokens that graphs are captured for: a step takes the next one that is large enough."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

from gpubench.errors import ArgumentError

__all__ = ["POLICIES", "choose_buckets", "find_bucket"]

POLICIES = ("exact", "powers", "engine")
"""One bucket for the most tokens alone; powers of two; 1, 2, 4, and multiples of 8, as serving engines have them."""


def choose_buckets(wanted: str | Sequence[int], most_tokens: int, name: str = "buckets") -> tuple[int, ...]:
    """The buckets, smallest first, that a policy or a list of them means for steps of up to `most_tokens`.

    `most_tokens` is what a step can have: of a step that prefills it is the chunk, whatever the number of sequences. A
    policy goes up to it; a list is taken as it is. ArgumentError names the option and what is wrong
    with it, or that it ends below.
    """
    if isinstance(wanted, str):
        if wanted not in POLICIES:
            raise ArgumentError(f"{name}: no policy {wanted!r}; known: {', '.join(POLICIES)}, or a list of numbers")
        return _by_policy(wanted, most_tokens)
    buckets = _checked(wanted, name)
    if buckets[-1] < most_tokens:
        raise ArgumentError(
            f"{name}: {_show(buckets)} don't cover a step of {most_tokens} tokens; the largest is {buckets[-1]}: "
            f"add one of {most_tokens} or more, or take one of {', '.join(POLICIES)}"
        )
    return buckets


def find_bucket(buckets: Sequence[int], num_tokens: int) -> int:
    """The smallest of the ascending `buckets` that holds so many tokens; ArgumentError if there is none."""
    place = bisect_left(buckets, num_tokens)
    if num_tokens < 1 or place == len(buckets):
        raise ArgumentError(f"a step of {num_tokens} tokens: buckets {_show(buckets)} hold 1 to {buckets[-1]}")
    return buckets[place]


def _by_policy(policy: str, most_tokens: int) -> tuple[int, ...]:
    if policy == "exact":
        return (most_tokens,)
    small = [1, 2, 4]
    size = 8
    while small[-1] < most_tokens:
        small.append(size)
        size = size * 2 if policy == "powers" else size + 8
    return (*(bucket for bucket in small if bucket < most_tokens), most_tokens)


def _checked(wanted: Any, name: str) -> tuple[int, ...]:
    is_list = isinstance(wanted, list | tuple) and len(wanted) > 0
    if not is_list or not all(type(bucket) is int and bucket >= 1 for bucket in wanted):
        raise ArgumentError(f"{name}: {wanted!r}; wanted numbers of tokens, 1 or more, or one of {', '.join(POLICIES)}")
    if len(set(wanted)) < len(wanted):
        raise ArgumentError(f"{name}: {_show(wanted)} has a number twice")
    return tuple(sorted(wanted))


def _show(buckets: Sequence[int]) -> str:
    return f"[{', '.join(map(str, buckets))}]"
