"""A step's graph cut at the operators that use its state.

An operator registered with torch that is given a part of the state is dynamic: what it does depends on the cache and on
lengths, and it runs eagerly. All that lies between two of them is a piece, which depends on its tokens alone and can be
captured. What follows from the state alone and is small (a view of the rotary table's last row) is a prelude: it is
computed eagerly at every step, and copied to where the pieces find it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from gpubench.errors import Unsupported
from gpubench.graphs.piecewise.branches import Streams, find_branches
from gpubench.graphs.piecewise.rows import Rows
from gpubench.graphs.piecewise.trace import Constant, Input, State, Traced

__all__ = ["MOST_COPIED_BYTES", "Operator", "Piece", "Plan", "split"]

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
class Operator:
    """A dynamic operator, called eagerly."""

    name: str
    node: fx.Node
    target: Callable[..., Any]
    """Takes all arguments by position, those too that the schema wants by name."""
    arguments: tuple[Any, ...]
    """In the schema's order: nodes of the step's graph, and plain values."""
    outputs: tuple[int, ...]
    """Of its arguments, those that the piece before allocated for it to fill …"""
    updated: tuple[int, ...]
    """… and those that had values, which it changes."""
    rows: Rows | None
    """Of the tensor that it returns, if it does."""

    @property
    def returns(self) -> bool:
        """Whether it returns a tensor."""
        return isinstance(self.node.meta.get("example_value"), Tensor)


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
    live: dict[fx.Node, int] = field(init=False, repr=False)
    """What comes with every step, and its place among that: the state's tensors, then what the prelude makes."""

    def __post_init__(self) -> None:
        state = {node: source for node, source in self.inputs.items() if isinstance(source, State)}
        live = {node: place for place, node in enumerate((*state, *self.prelude.outputs))}
        object.__setattr__(self, "state", state)
        object.__setattr__(self, "live", live)

    @property
    def operators(self) -> list[Operator]:
        return [part for part in self.parts if isinstance(part, Operator)]

    def find_live(self, state: Any) -> list[Any]:
        """What comes with a step, from its state."""
        tensors = [source.path.get(state) for source in self.state.values()]
        made = self.prelude.module.forward(*(tensors[self.live[node]] for node in self.prelude.inputs))
        return [*tensors, *made]

    def pack(self, leaves: list[Any]) -> Any:
        """What the step returns, of its leaves."""
        return pytree.tree_unflatten(leaves, self.traced.structure)

    def rows(self, node: fx.Node) -> Rows | None:
        """Where the tokens are in a value."""
        return self.traced.rows(node)


def split(traced: Traced, head: Tensor | None = None, beside: Sequence[Tensor] = ()) -> Plan:
    """Cut a traced step. If the weight `head` is given, what comes from its first use on is left uncaptured. What reads
    the weights `beside` runs on a second stream beside the others.

    Unsupported, naming the node, if something but an operator uses the state: a piece can't.
    """
    nodes = list(traced.graph.nodes)
    placeholders = [node for node in nodes if node.op == "placeholder"]
    inputs = dict(zip(placeholders, traced.inputs, strict=True))
    cutter = _Cutter(inputs, traced)
    body = [node for node in nodes if node.op not in ("placeholder", "output")]
    prelude = _merge_equal([node for node in body if cutter.is_prelude(node)])
    parts = cutter.cut([node for node in body if node not in cutter.of_state], _heads(inputs, head))
    results: Any = traced.graph.output_node().args[0]
    outputs: tuple[fx.Node, ...] = tuple(results[place] for place in traced.outputs)
    readers = _last_readers(parts, outputs)
    read = {node for part in parts if isinstance(part, _Run) for node in part.inputs if node in cutter.of_state}
    copied = read.difference(inputs)
    for node in read:
        cutter.refuse_changed(node)
    for node in copied:
        _refuse_large(node)
    forking = {node for weight in beside for node in _uses(inputs, weight)}
    return Plan(
        traced,
        inputs,
        _make_piece(_Run("prelude", prelude), {node: 0 for node in prelude if node in readers}),
        tuple(node for node in nodes if node in copied),
        tuple(_make_piece(part, readers, forking) if isinstance(part, _Run) else part for part in parts),
        outputs,
        readers,
    )


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
    """Tells nodes of the state, operators and pieces apart."""

    def __init__(self, inputs: dict[fx.Node, Input], traced: Traced) -> None:
        self._traced = traced
        self.of_state = {node for node, source in inputs.items() if isinstance(source, State)}
        """The state's tensors and what follows from them alone."""
        self._paths = {node: source.path for node, source in inputs.items() if isinstance(source, State)}
        self._writers: dict[fx.Node, str] = {}
        """The operators that change a tensor of the state: the last of each."""

    def is_prelude(self, node: fx.Node) -> bool:
        """Whether a node, asked for in order, follows from the state alone."""
        read = node.all_input_nodes
        if not read or not all(value in self.of_state for value in read) or _schema(node) is not None:
            return False
        self._refuse_write(node)
        self.of_state.add(node)
        return True

    def cut(self, nodes: Sequence[fx.Node], heads: set[fx.Node]) -> list[_Run | Operator]:
        """The parts in order."""
        counts: dict[str, int] = {}
        parts: list[_Run | Operator] = []
        run = _Run("start")
        for node in nodes:
            if self._is_dynamic(node):
                parts += [run] if run.nodes else []
                operator = self._make_operator(node, counts)
                parts.append(operator)
                run = _Run(f"after {operator.name}")
                continue
            if run.is_captured and heads.intersection(node.all_input_nodes):
                parts += [run] if run.nodes else []
                run = _Run("head", is_captured=False)
            if self.of_state.intersection(node.all_input_nodes):
                self._refuse_write(node)
            run.nodes.append(node)
        if any(isinstance(part, _Run) and not part.is_captured for part in parts):
            raise Unsupported("head: outside: an operator that uses the cache comes after the head")
        return [*parts, run] if run.nodes else parts

    def _is_dynamic(self, node: fx.Node) -> bool:
        return _schema(node) is not None and not self.of_state.isdisjoint(node.all_input_nodes)

    def _make_operator(self, node: fx.Node, counts: dict[str, int]) -> Operator:
        schema = _schema(node)
        assert schema is not None, "a dynamic operator has a schema"
        short = schema.name.partition("::")[2]
        number = counts[short] = counts.get(short, -1) + 1
        by_name = dict(zip((argument.name for argument in schema.arguments), node.args, strict=False)) | node.kwargs
        arguments: tuple[Any, ...] = tuple(
            by_name.get(argument.name, argument.default_value) for argument in schema.arguments
        )
        for argument in arguments:
            if isinstance(argument, list | tuple | dict) and any(_nodes_in(argument)):
                raise Unsupported(f"piecewise: {short} takes tensors in a {type(argument).__name__}; pass them singly")
        written = [
            place
            for place, (argument, value) in enumerate(zip(schema.arguments, arguments, strict=True))
            if argument.alias_info is not None and argument.alias_info.is_write
            if isinstance(value, fx.Node) and value not in self.of_state
        ]
        for argument, value in zip(schema.arguments, arguments, strict=True):
            if argument.alias_info is not None and argument.alias_info.is_write and value in self.of_state:
                self._writers[self._root(value)] = f"{short} {number}"
        outputs = tuple(place for place in written if _is_empty(arguments[place], node))
        updated = tuple(place for place in written if place not in outputs)
        example = node.meta.get("example_value")
        if example is not None and not isinstance(example, Tensor):
            raise Unsupported(f"piecewise: {short} returns {type(example).__name__}; wanted one tensor or none")
        rows = self._traced.rows(node) if isinstance(example, Tensor) else None
        return Operator(f"{short} {number}", node, _by_position(_overload(node)), arguments, outputs, updated, rows)

    def _refuse_write(self, node: fx.Node) -> None:
        """Unsupported for what changes the state outside of an operator."""
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        if not (name == "setitem" or (name.endswith("_") and not name.endswith("__"))):
            return
        changed = node.args[0]
        if isinstance(changed, fx.Node) and changed in self.of_state:
            path = self._paths[self._root(changed)]
            raise Unsupported(
                f"piecewise: {name} changes {path} outside of an operator; what uses the cache must be in an operator "
                "registered with torch, which declares what it changes"
            )

    def refuse_changed(self, node: fx.Node) -> None:
        """Unsupported for what pieces read of a tensor that operators change: what follows from it is copied before the
        step begins, and a piece that reads a cache does what an operator is for."""
        root = self._root(node)
        if root in self._writers:
            reader = next(iter(node.users)).name
            raise Unsupported(
                f"piecewise: {reader} reads {self._paths[root]} outside of an operator, and {self._writers[root]} "
                "changes it within the step; what reads it must be in an operator, too"
            )

    def _root(self, node: fx.Node) -> fx.Node:
        """A tensor of the state that a value follows from."""
        while node not in self._paths:
            node = next(value for value in node.all_input_nodes if value in self.of_state)
        return node


def _merge_equal(prelude: Sequence[fx.Node]) -> list[fx.Node]:
    """The prelude without what it computes twice: every layer takes the same row of the rotary table."""
    kept: dict[tuple[Any, ...], fx.Node] = {}
    for node in prelude:
        first = kept.setdefault((node.op, node.target, repr(node.args), repr(node.kwargs)), node)
        if first is not node:
            node.replace_all_uses_with(first)
    return list(kept.values())


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


def _schema(node: fx.Node) -> torch.FunctionSchema | None:
    """The schema of an operator that somebody registered; None for torch's own and for everything else."""
    if not isinstance(node.target, torch._ops.OpOverload | torch._ops.OpOverloadPacket):
        return None
    schema = _overload(node)._schema
    return None if schema.name.partition("::")[0] in ("aten", "prims", "prim") else schema


def _overload(node: fx.Node) -> torch._ops.OpOverload:
    target = node.target
    return target.default if isinstance(target, torch._ops.OpOverloadPacket) else target  # type: ignore[return-value]


def _by_position(overload: torch._ops.OpOverload) -> Callable[..., Any]:
    """An operator that takes all of its arguments in the schema's order."""
    names = [argument.name for argument in overload._schema.arguments if argument.kwarg_only]
    if not names:
        return overload
    by_place = len(overload._schema.arguments) - len(names)

    def call(*arguments: Any) -> Any:
        return overload(*arguments[:by_place], **dict(zip(names, arguments[by_place:], strict=True)))

    return call


def _nodes_in(value: Any) -> Iterator[fx.Node]:
    found: list[fx.Node] = []
    fx.node.map_arg(value, found.append)
    yield from found


_EMPTY = ("new_empty", "empty", "empty_like")


def _is_empty(value: fx.Node, writer: fx.Node) -> bool:
    """Whether a value was allocated and nothing else when `writer` gets it."""
    name = value.target if isinstance(value.target, str) else getattr(value.target, "__name__", "")
    return name in _EMPTY and next(iter(value.users)) is writer


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
        read = part.inputs if isinstance(part, _Run) else _nodes_in(part.arguments)
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
