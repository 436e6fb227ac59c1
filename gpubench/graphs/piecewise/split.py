"""A step's graph cut at the operators that use its state.

An operator registered with torch that is given a part of the state is dynamic: what it does depends on the cache and on
lengths, and it runs eagerly. All that lies between two of them is a piece, which depends on its tokens alone and can be
captured. What follows from the state alone and is small (a view of the rotary table's last row) is a prelude: it is
computed eagerly at every step, and copied to where the pieces find it.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from gpubench.errors import Unsupported
from gpubench.graphs.piecewise.branches import Streams, find_branches
from gpubench.graphs.piecewise.operators import Operator, make_operator, nodes_in
from gpubench.graphs.piecewise.rows import Rows
from gpubench.graphs.piecewise.state import StateUse
from gpubench.graphs.piecewise.trace import Constant, Input, State, Traced
from gpubench.graphs.places import Path

__all__ = ["MOST_COPIED_BYTES", "Piece", "Plan", "split"]

MOST_COPIED_BYTES = 1 << 16
"""Of what follows from the state, a piece may read no more at once: it is copied at every step."""


@dataclass(frozen=True)
class Piece:
    """A part of the step that depends on its tokens alone."""

    name: str
    """By what is before it: `start`, `after cached_attention 3`; `head`."""
    module: fx.GraphModule
    inputs: tuple[fx.Node, ...]
    """Of the step's graph."""
    outputs: tuple[fx.Node, ...]
    is_captured: bool = True
    """A head left outside runs eagerly on as many rows as there are tokens."""


@dataclass(frozen=True)
class Plan:
    """A step in the order in which it runs."""

    traced: Traced
    inputs: dict[fx.Node, Input]
    """The step's own, by its graph's placeholders."""
    prelude: Piece
    copied: tuple[fx.Node, ...]
    """What pieces read of the prelude, in buffers of their own. Tensors of the state they read where these are."""
    parts: tuple[Piece | Operator, ...]
    outputs: tuple[fx.Node, ...]
    """Of the step, in the order of the leaves of what it returns."""
    last_reader: dict[fx.Node, int] = field(repr=False)
    """The number of the last part that reads a value; of an output, the number of parts."""
    state: dict[fx.Node, State] = field(init=False, repr=False)
    """The state's tensors that the step uses."""
    paths: tuple[Path, ...] = field(init=False, repr=False)
    """Where these are in a state, and behind them where some of them are once more."""
    live: dict[fx.Node, int] = field(init=False, repr=False)
    """What comes with every step, and its place among that: the state's tensors, then what the prelude makes."""

    def __post_init__(self) -> None:
        state = {node: source for node, source in self.inputs.items() if isinstance(source, State)}
        live = {node: place for place, node in enumerate((*state, *self.prelude.outputs))}
        again = (path for source in state.values() for path in source.again)
        object.__setattr__(self, "state", state)
        object.__setattr__(self, "paths", (*(source.path for source in state.values()), *again))
        object.__setattr__(self, "live", live)

    @property
    def operators(self) -> list[Operator]:
        return [part for part in self.parts if isinstance(part, Operator)]

    def find_live(self, state: Sequence[Tensor]) -> list[Any]:
        """What comes with a step, from the tensors of its state at `paths`."""
        tensors = state[: len(self.state)]
        made = self.prelude.module.forward(*(tensors[self.live[node]] for node in self.prelude.inputs))
        return [*tensors, *made]

    def pack(self, leaves: list[Any]) -> Any:
        """What the step returns, of its leaves."""
        return pytree.tree_unflatten(leaves, self.traced.structure)

    def rows(self, node: fx.Node) -> Rows | None:
        """Where the tokens are in a value."""
        return self.traced.rows(node)

    def cut(self, node: fx.Node, value: Any, num_tokens: int) -> Any:
        """What a value is for so many tokens, of what it is for as many as the bucket has."""
        number = self.traced.sizes.number(node, num_tokens)
        if number is not None:
            return number
        rows = self.rows(node)
        return rows.first(value, num_tokens) if rows else value


def split(traced: Traced, head: Tensor | None = None, beside: Sequence[Tensor] = ()) -> Plan:
    """Cut a traced step. If the weight `head` is given, what comes from its first use on is left uncaptured. What reads
    the weights `beside` runs on a second stream beside the others.

    Unsupported, naming the node, if something but an operator uses the state: a piece can't.
    """
    nodes = list(traced.graph.nodes)
    placeholders = [node for node in nodes if node.op == "placeholder"]
    inputs = dict(zip(placeholders, traced.inputs, strict=True))
    body = [node for node in nodes if node.op not in ("placeholder", "output")]
    state = StateUse(inputs, body)
    parts = _Cutter(traced, state).cut([node for node in body if node not in state], _heads(inputs, head))
    outputs = _find_outputs(traced, state)
    readers = _last_readers(parts, outputs)
    read = {
        value: node
        for part in parts
        if isinstance(part, _Run)
        for node in part.nodes
        for value in node.all_input_nodes
        if value in state
    }
    copied = read.keys() - inputs.keys()
    for node, reader in read.items():
        state.refuse_changed(node, reader.name)
    for node in copied:
        _refuse_large(node)
    forking = {node for weight in beside for node in _uses(inputs, weight)}
    return Plan(
        traced,
        inputs,
        _make_piece(_Run("prelude", state.prelude), {node: 0 for node in state.prelude if node in readers}),
        tuple(node for node in nodes if node in copied),
        tuple(_make_piece(part, readers, forking) if isinstance(part, _Run) else part for part in parts),
        outputs,
        readers,
    )


def _find_outputs(traced: Traced, state: StateUse) -> tuple[fx.Node, ...]:
    results: Any = traced.graph.output_node().args[0]
    outputs = tuple(results[place] for place in traced.outputs)
    for node in outputs:
        if node in state:
            raise Unsupported(
                f"piecewise: the step returns {node.name}, which follows from its state alone; read it there"
            )
    return outputs


@dataclass
class _Run:
    """Nodes that follow one another, with no operator between."""

    name: str
    nodes: list[fx.Node] = field(default_factory=list)
    is_captured: bool = True

    @property
    def inputs(self) -> tuple[fx.Node, ...]:
        """What it reads that it doesn't make, each once."""
        own = set(self.nodes)
        read = (value for node in self.nodes for value in node.all_input_nodes)
        return tuple(dict.fromkeys(value for value in read if value not in own))


class _Cutter:
    """Tells operators and pieces apart."""

    def __init__(self, traced: Traced, state: StateUse) -> None:
        self._traced, self._state = traced, state

    def cut(self, nodes: Sequence[fx.Node], heads: set[fx.Node]) -> list[_Run | Operator]:
        """The parts in order."""
        parts: list[_Run | Operator] = []
        run = _Run("start")
        for node in nodes:
            name = self._state.operators.get(node)
            if name is not None:
                parts += [run] if run.nodes else []
                parts.append(self._make_operator(name, node))
                run = _Run(f"after {name}")
                continue
            if run.is_captured and heads.intersection(node.all_input_nodes):
                parts += [run] if run.nodes else []
                run = _Run("head", is_captured=False)
            if run.is_captured:
                _refuse_counting(node)
            run.nodes.append(node)
        if any(isinstance(part, _Run) and not part.is_captured for part in parts):
            raise Unsupported("head: outside: an operator that uses the cache comes after the head")
        return [*parts, run] if run.nodes else parts

    def _make_operator(self, name: str, node: fx.Node) -> Operator:
        for value in node.all_input_nodes:
            if value in self._state:
                self._state.refuse_outdated(value, name)
        return make_operator(name, node, self._traced, self._state)


def _refuse_counting(node: fx.Node) -> None:
    """Unsupported for what computes with the number of tokens: a capture would have the bucket's."""
    is_arithmetic = getattr(node.target, "__module__", "") == "_operator" and node.target is not operator.getitem
    if is_arithmetic and isinstance(node.meta.get("example_value"), Tensor):
        examples = [value.meta.get("example_value") for value in node.all_input_nodes]
        if any(isinstance(example, torch.SymInt) and example.node.expr.free_symbols for example in examples):
            raise Unsupported(
                f"piecewise: {node.name} computes with the number of tokens; a piece is captured for a bucket, and "
                "would take the bucket's. What needs the number must be in an operator"
            )


def _heads(inputs: dict[fx.Node, Input], head: Tensor | None) -> set[fx.Node]:
    if head is None:
        return set()
    found = _uses(inputs, head)
    if not found:
        raise Unsupported("head: outside: the step doesn't use the model's head")
    return found


def _uses(inputs: dict[fx.Node, Input], weight: Tensor) -> set[fx.Node]:
    """The placeholders of a weight."""
    return {node for node, source in inputs.items() if isinstance(source, Constant) and source.value is weight}


def _refuse_large(node: fx.Node) -> None:
    example = node.meta["example_value"]
    if isinstance(example, Tensor) and example.numel() * example.element_size() > MOST_COPIED_BYTES:
        reader = next(iter(node.users))
        raise Unsupported(
            f"piecewise: {reader.name} reads {example.nbytes:,} B that follow from the state outside of an operator; "
            "what uses the cache must be in an operator registered with torch "
            f"(up to {MOST_COPIED_BYTES:,} B are copied)"
        )


def _last_readers(parts: Sequence[_Run | Operator], outputs: Iterable[fx.Node]) -> dict[fx.Node, int]:
    """By value, the last part that reads it; the step's outputs are read when all parts have run."""
    readers: dict[fx.Node, int] = {}
    for number, part in enumerate(parts):
        read = part.inputs if isinstance(part, _Run) else nodes_in(part.arguments)
        readers.update(dict.fromkeys(read, number))
    return readers | dict.fromkeys(outputs, len(parts))


def _make_piece(run: _Run, readers: dict[fx.Node, int], forking: Collection[fx.Node] = frozenset()) -> Piece:
    """The run as a module: what it reads as its parameters, what somebody else reads as its results.

    What follows from the weights `forking` alone is a branch on a second stream.
    """
    own = set(run.nodes)
    outputs = tuple(node for node in run.nodes if node in readers and any(user not in own for user in node.users))
    branches = find_branches(run.nodes, forking)
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {node: graph.placeholder(node.name) for node in run.inputs}

    def copy(nodes: Iterable[fx.Node]) -> None:
        for node in nodes:
            copies[node] = graph.node_copy(node, lambda value: copies[value])

    def call(name: str, alive: Iterable[fx.Node]) -> None:
        graph.call_module(name, tuple(copies[node] for node in alive))

    by_start = {branch.nodes[0]: branch for branch in branches}
    by_join = {branch.join: branch for branch in branches if branch.join is not None}
    of_branches = {node for branch in branches for node in branch.nodes}
    for node in run.nodes:
        if node in by_join:
            call("join", (*by_join[node].reads, *by_join[node].nodes))
        if node in by_start:
            call("fork", by_start[node].reads)
            copy(by_start[node].nodes)
            call("resume", ())
        elif node not in of_branches:
            copy([node])
    for branch in branches:
        if branch.join is None:
            call("join", (*branch.reads, *branch.nodes))
    graph.output(tuple(copies[node] for node in outputs))
    modules = Streams().modules() if branches else {}
    return Piece(run.name, fx.GraphModule(modules, graph), run.inputs, outputs, run.is_captured)
