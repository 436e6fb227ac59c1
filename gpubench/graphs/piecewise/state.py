"""What a step's graph makes of its state: what follows from it alone, whose memory that is, and who changes it.

What follows from the state alone is computed before a step begins. So it may be no value of what the step changes: a
view of the cache is the cache, whenever it is read, but twice the cache is what it was.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from typing import Any

from torch import Tensor, fx

from gpubench.errors import Unsupported
from gpubench.graphs.piecewise.operators import call_name, nodes_in, schema_of, short_name, written_by
from gpubench.graphs.piecewise.trace import Input, State
from gpubench.graphs.places import Path

__all__ = ["StateUse"]


class StateUse:
    """Of a graph's nodes, in order, those that are the state's, and how they are used."""

    def __init__(self, inputs: dict[fx.Node, Input], body: Sequence[fx.Node]) -> None:
        """`inputs` are the graph's placeholders, `body` what is computed of them. Unsupported, naming the node, if
        something but an operator changes the state."""
        self._paths = {node: source.path for node, source in inputs.items() if isinstance(source, State)}
        self._sources: dict[fx.Node, tuple[fx.Node, ...]] = {node: (node,) for node in self._paths}
        """By node of the state, those of it that it follows from: itself, too."""
        prelude = [node for node in body if self._follows(node)]
        self._memories = {_memory(node) for node in self._sources}
        self.operators = self._name_operators(body)
        """The names of dynamic operators: what they are, and the how manieth."""
        self._changed = {
            _memory(value): name
            for node, name in self.operators.items()
            for value in written_by(node)
            if self._is_own(value)
        }
        """By memory, the last operator that changes it."""
        for node in body:
            self._refuse_write(node)
        self.prelude = self._merge_equal(prelude)
        """What follows from the state alone, without what would be computed twice: every layer takes the same row of
        the rotary table."""

    def __contains__(self, node: object) -> bool:
        """Whether it is one of the state's tensors, or follows from them alone."""
        return node in self._sources

    def refuse_changed(self, node: fx.Node, reader: str) -> None:
        """Unsupported for what a piece reads of memory that operators change: what follows from it is copied before the
        step begins, and a piece that reads a cache does what an operator is for."""
        self._refuse(self._sources[node], reader)

    def refuse_outdated(self, node: fx.Node, reader: str) -> None:
        """Unsupported for what an operator reads that was computed, before the step began, of memory that operators
        change. A view of that memory is none."""
        own = _memory(node)
        self._refuse([source for source in self._sources[node] if _memory(source) != own], reader)

    def _refuse(self, sources: Sequence[fx.Node], reader: str) -> None:
        source = next((source for source in sources if _memory(source) in self._changed), None)
        if source is not None:
            raise Unsupported(
                f"piecewise: {reader} reads {self._path(source)} outside of an operator, and "
                f"{self._changed[_memory(source)]} changes it within the step; "
                "what reads it must be in an operator, too"
            )

    def _follows(self, node: fx.Node) -> bool:
        """Whether a node, asked for in order, follows from the state alone."""
        read = node.all_input_nodes
        if not read or not all(value in self._sources for value in read) or schema_of(node) is not None:
            return False
        self._sources[node] = tuple(dict.fromkeys((node, *itertools.chain(*(self._sources[value] for value in read)))))
        return True

    def _is_own(self, value: fx.Node) -> bool:
        """Whether a value is in the state's memory: it may be a view of as many rows as there are tokens."""
        return _memory(value) in self._memories

    def _name_operators(self, body: Sequence[fx.Node]) -> dict[fx.Node, str]:
        counts: dict[str, int] = {}
        names = {}
        for node in body:
            if schema_of(node) is not None and any(map(self._is_own, node.all_input_nodes)):
                short = short_name(node)
                number = counts[short] = counts.get(short, -1) + 1
                names[node] = f"{short} {number}"
        return names

    def _refuse_write(self, node: fx.Node) -> None:
        """Unsupported for what changes the state outside of an operator, or in as many rows as a bucket has."""
        if node in self.operators:
            for value in written_by(node):
                if self._is_own(value) and value not in self:
                    raise Unsupported(
                        f"piecewise: {self.operators[node]} changes {value.name}, of as many rows as a bucket has; "
                        f"give it {self._path(value)}, and let it take the rows"
                    )
            return
        changed = next((value for value in _changed_by(node) if self._is_own(value)), None)
        if changed is not None:
            raise Unsupported(
                f"piecewise: {call_name(node)} changes {self._path(changed)} outside of an operator; what uses the "
                "cache must be in an operator registered with torch, which declares what it changes"
            )

    def _merge_equal(self, prelude: Sequence[fx.Node]) -> list[fx.Node]:
        kept: dict[tuple[Any, ...], fx.Node] = {}
        for node in prelude:
            alone = node if _memory(node) in self._changed else None  # equal for now
            key = (node.op, node.target, repr(node.args), repr(node.kwargs), alone)
            first = kept.setdefault(key, node)
            if first is not node:
                node.replace_all_uses_with(first)
        return list(kept.values())

    def _path(self, node: fx.Node) -> Path:
        """Of a tensor of the state that a value follows from, or is a view of."""
        sources = self._sources.get(node) or [own for own in self._sources if _memory(own) == _memory(node)]
        return next(self._paths[source] for source in sources if source in self._paths)


def _memory(node: fx.Node) -> Any:
    """Whose memory a value is in: its own, or that of what it is a view of."""
    example = node.meta.get("example_value")
    return example.untyped_storage()._cdata if isinstance(example, Tensor) else node


_IN_PLACE = {
    getattr(operator, name) for name in dir(operator) if name.startswith("i") and f"__{name}__" in dir(operator)
}
"""`x += y` and its like."""


def _changed_by(node: fx.Node) -> list[fx.Node]:
    """What a function or method of torch's writes into, as far as its name and its arguments say so."""
    name = call_name(node).partition(".")[0]
    found = list(nodes_in(node.kwargs.get("out")))
    is_in_place = name == "setitem" or (name.endswith("_") and not name.endswith("__")) or node.target in _IN_PLACE
    if is_in_place or node.kwargs.get("inplace") is True:
        found += nodes_in(node.args[:1])
    return found
