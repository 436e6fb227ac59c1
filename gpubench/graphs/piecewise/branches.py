"""A piece that forks: what reads certain weights runs on a second stream, until something else needs it.

Shared experts beside routed ones are the case in point: both read the same rows, neither waits for the other. The fork
and the join are nodes of the piece's graph, so that a capture has them as its own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

__all__ = ["Branch", "Streams", "find_branches"]


@dataclass(frozen=True)
class Branch:
    """Nodes of a piece that can run beside the others."""

    nodes: tuple[fx.Node, ...]
    """In order."""
    join: fx.Node | None
    """The first of the others that reads one of them; None if only what comes after the piece does."""

    @property
    def reads(self) -> tuple[fx.Node, ...]:
        """What it reads that it doesn't make, which must live until the join."""
        own = set(self.nodes)
        read = (value for node in self.nodes for value in node.all_input_nodes)
        return tuple(dict.fromkeys(value for value in read if value not in own))


def find_branches(nodes: Sequence[fx.Node], weights: Collection[fx.Node]) -> list[Branch]:
    """The branches of a piece's `nodes` that begin where one reads one of these weights.

    A branch takes in what reads it or another of them, and nothing that needs what the piece makes beside it; it has
    ended once such a node reads it. A branch beside which nothing runs is none.
    """
    found: list[Branch] = []
    rest, forking = list(nodes), set(weights)
    while True:
        start = next((place for place, node in enumerate(rest) if forking.intersection(node.all_input_nodes)), None)
        if start is None:
            return found
        branch, end = _follow(rest[start:], forking)
        if branch is not None:
            found.append(branch)
        rest = rest[start + end :]


def _follow(nodes: Sequence[fx.Node], forking: Collection[fx.Node]) -> tuple[Branch | None, int]:
    """The branch that begins with the first of these nodes, and the place from which another may begin."""
    made_after = set(nodes)
    own: dict[fx.Node, None] = {}
    for place, node in enumerate(nodes):
        read = node.all_input_nodes
        is_fed = any(value in own for value in read)
        is_meant = is_fed or any(value in forking for value in read)
        if is_meant and all(value in own or value not in made_after for value in read):
            own[node] = None
        elif is_fed:
            return (Branch(tuple(own), node) if place > len(own) else None), place
    return (Branch(tuple(own), None) if len(nodes) > len(own) else None), len(nodes)


class Streams:
    """A second stream, and the calls that go there and back; where there is but a CPU they do nothing."""

    def __init__(self) -> None:
        self._side = torch.cuda.Stream() if torch.cuda.is_available() else None  # type: ignore[no-untyped-call]

    def fork(self, *_alive: Tensor) -> None:
        """From here on work goes to the second stream, behind all that came before."""
        if self._side is not None:
            self._main = torch.cuda.current_stream()
            self._side.wait_stream(self._main)
            torch.cuda.set_stream(self._side)

    def resume(self, *_alive: Tensor) -> None:
        """From here on work goes to the first stream again, beside that of the second."""
        if self._side is not None:
            torch.cuda.set_stream(self._main)

    def join(self, *_alive: Tensor) -> None:
        """The first stream waits for the second. What the second reads is an argument, so that it lives until here."""
        if self._side is not None:
            self._main.wait_stream(self._side)

    def modules(self) -> dict[str, nn.Module]:
        """The three as modules, which a graph can call."""
        return {name: _Call(getattr(self, name)) for name in ("fork", "resume", "join")}


class _Call(nn.Module):
    def __init__(self, function: Callable[..., None]) -> None:
        super().__init__()
        self._function = function

    def forward(self, *values: Tensor) -> None:
        self._function(*values)
