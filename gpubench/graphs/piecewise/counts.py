"""What a trace knows of its number of tokens, and so which of its values have a row for each, or follow from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import fx

from gpubench.graphs.piecewise.rows import Rows, rows_between, rows_of

__all__ = ["AnyNumber", "OneNumber", "Sizes"]


class Sizes(Protocol):
    """What a trace knows of its number of tokens."""

    @property
    def exact(self) -> int | None:
        """The one number that the graph is for; None if it is for any that it admits."""
        ...

    def admit(self, num_tokens: int) -> bool: ...

    def rows(self, node: fx.Node) -> Rows | None: ...

    def number(self, node: fx.Node, num_tokens: int) -> int | None:
        """What an integer of the graph is for so many tokens; None for what is no integer, or the same for all."""
        ...

    def has_number(self, node: fx.Node) -> bool:
        """Whether a call was traced with a number that is another for another number of tokens, as if it were none."""
        ...


@dataclass(frozen=True)
class AnyNumber:
    """A trace's number of tokens is a symbol: for Dynamo, of at least 2."""

    symbol: Any
    guards: tuple[Any, ...]
    """What was found true of it while the step's Python ran: another number may take another branch."""
    exact: None = None

    def admit(self, num_tokens: int) -> bool:
        if num_tokens < 2:
            return False
        return all(guard.subs(self.symbol, num_tokens) == True for guard in self.guards)  # noqa: E712 - SymPy's

    def rows(self, node: fx.Node) -> Rows | None:
        return rows_of(node.meta.get("example_value"), self.symbol)

    def number(self, node: fx.Node, num_tokens: int) -> int | None:
        value = node.meta.get("example_value")
        if not isinstance(value, torch.SymInt):
            return None
        symbolic: Any = value.node
        return int(symbolic.expr.subs(self.symbol, num_tokens))

    def has_number(self, node: fx.Node) -> bool:
        return False


@dataclass(frozen=True)
class OneNumber:
    """A trace's number of tokens is a constant of the graph. What is the tokens' shows beside the same graph for
    another number."""

    exact: int
    other: int = 0
    twins: dict[fx.Node, fx.Node] = field(default_factory=dict)
    """The nodes of that graph, by those of this one."""

    def admit(self, num_tokens: int) -> bool:
        return num_tokens == self.exact

    def rows(self, node: fx.Node) -> Rows | None:
        twin = self.twins[node].meta.get("example_value") if self.twins else None
        return rows_between(node.meta.get("example_value"), self.exact, twin, self.other)

    def number(self, node: fx.Node, num_tokens: int) -> int | None:
        return None

    def has_number(self, node: fx.Node) -> bool:
        return bool(self.twins) and _plain(node) != _plain(self.twins[node])


def _plain(node: fx.Node) -> Any:
    """A call's arguments, without those that are computed."""
    return fx.node.map_arg((node.args, node.kwargs), lambda _: None)
