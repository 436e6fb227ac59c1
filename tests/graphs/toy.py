"""Toy steps and operators, `torch.ops.toy.*`, for tests of how steps are cut and captured."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from graphs.fake_graphs import FakeGraphs
from torch import Tensor

from gpubench.graphs.piecewise.step import Options, PiecewiseStep

WIDTH, ROWS = 6, 8
SEEN: list[tuple[str, int]] = []
"""The operators that ran, and on how many rows."""


@dataclass
class State:
    """What the toy step remembers."""

    memory: Tensor


def _grow_fake(x: Tensor, memory: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], 2 * x.shape[1])


def _grow(x: Tensor, memory: Tensor) -> Tensor:
    SEEN.append(("grow", len(x)))
    memory[: len(x)] += 1
    return torch.cat((x, memory[: len(x)]), dim=1)


def _read_fake(x: Tensor, memory: Tensor) -> Tensor:
    return torch.empty_like(x)


def _read(x: Tensor, memory: Tensor) -> Tensor:
    SEEN.append(("read", len(x)))
    return x + memory[: len(x)]


def _fill(x: Tensor, memory: Tensor, out: Tensor, *, scale: float = 1.0) -> None:
    SEEN.append(("fill", len(x)))
    out.copy_(x * memory[: len(x)] * scale)


def _fill_fake(x: Tensor, memory: Tensor, out: Tensor, *, scale: float = 1.0) -> None: ...


def _lie(x: Tensor, memory: Tensor) -> Tensor:
    return x[:, :1].contiguous()


def _pair(x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    return x + 1, x + 2


def _pair_fake(x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(x)


def _scale(x: Tensor, memory: Tensor, count: int) -> Tensor:
    return x * count


def _scale_fake(x: Tensor, memory: Tensor, count: int) -> Tensor:
    return torch.empty_like(x)


_LIBRARY = torch.library.Library("toy", "DEF")
for _name, _schema, _function, _fake in (
    ("grow", "(Tensor x, Tensor(a!) memory) -> Tensor", _grow, _grow_fake),
    ("read", "(Tensor x, Tensor memory) -> Tensor", _read, _read_fake),
    ("lie", "(Tensor x, Tensor memory) -> Tensor", _lie, _read_fake),
    ("fill", "(Tensor x, Tensor memory, Tensor(a!) out, *, float scale=1.0) -> ()", _fill, _fill_fake),
    ("pair", "(Tensor x, Tensor memory) -> (Tensor, Tensor)", _pair, _pair_fake),
    ("scale", "(Tensor x, Tensor memory, SymInt count) -> Tensor", _scale, _scale_fake),
):
    _LIBRARY.define(f"{_name}{_schema}")
    _LIBRARY.impl(_name, _function, "CPU")
    torch.library.register_fake(f"toy::{_name}", _fake, lib=_LIBRARY)


class Toy:
    """A step with two operators in a row, one that returns and one that fills, and sums over all rows."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.table = torch.randn(32, WIDTH)
        self.head = torch.randn(WIDTH, WIDTH)

    def __call__(self, tokens: Tensor, state: State) -> dict[str, Tensor]:
        x = self.table[tokens] * 2
        grown = torch.ops.toy.grow(torch.ops.toy.read(x, state.memory), state.memory)
        mixed = grown[:, :WIDTH] + grown.sum(dim=0)[WIDTH:]  # over all rows: what is in the padding would show
        out = mixed.new_empty(mixed.shape)
        torch.ops.toy.fill(mixed, state.memory, out, scale=0.5)
        return {"y": (out + out.sum(dim=0)) @ self.head}


def make_state() -> State:
    return State(torch.rand(ROWS, WIDTH))


def tokens_of(count: int) -> Tensor:
    return torch.randint(32, (count,))


def some(state: Any) -> Callable[[int], tuple[Tensor, Any]]:
    """What buckets are warmed up and captured with."""
    return lambda bucket: (tokens_of(min(bucket, ROWS)), state)


def ready(step: Callable[..., Any], state: Any, buckets: tuple[int, ...] = (2, 4, 8), **options: Any) -> PiecewiseStep:
    """A step that has been captured; the state is as it was."""
    before = copy.deepcopy(state)
    pieces = PiecewiseStep(step, Options(buckets, **options), FakeGraphs(), head=getattr(step, "head", None))
    pieces.warm_up(some(state))
    pieces.capture(some(state))
    state.memory.copy_(before.memory)
    return pieces
