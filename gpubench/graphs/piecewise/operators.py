"""Dynamic operators: what somebody registered with torch and a step gives a part of its state."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from gpubench.errors import Unsupported
from gpubench.graphs.piecewise.rows import Rows
from gpubench.graphs.piecewise.trace import Traced

__all__ = ["Operator", "call_name", "make_operator", "nodes_in", "schema_of", "short_name", "written_by"]


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


def make_operator(name: str, node: fx.Node, traced: Traced, of_state: Container[fx.Node]) -> Operator:
    """A node as an operator of that name. Unsupported, naming it, for what can't be called between pieces."""
    arguments = _arguments(node)
    for argument in arguments:
        if isinstance(argument, list | tuple | dict) and any(nodes_in(argument)):
            raise Unsupported(f"piecewise: {name} takes tensors in a {type(argument).__name__}; pass them singly")
    written = [place for place in _written_places(node) if arguments[place] not in of_state]
    outputs = tuple(place for place in written if _is_empty(arguments[place], node))
    updated = tuple(place for place in written if place not in outputs)
    example = node.meta.get("example_value")
    if example is not None and not isinstance(example, Tensor):
        raise Unsupported(f"piecewise: {name} returns {type(example).__name__}; wanted one tensor or none")
    if traced.sizes.has_number(node):
        raise Unsupported(
            f"piecewise: {name} is given a number that follows from that of the tokens, and {traced.sizes.exact} of "
            "them are traced by themselves, with that as a constant; let it take the number from a tensor's shape"
        )
    rows = traced.rows(node) if isinstance(example, Tensor) else None
    return Operator(name, node, _by_position(_overload(node)), arguments, outputs, updated, rows)


def schema_of(node: fx.Node) -> torch.FunctionSchema | None:
    """The schema of an operator that somebody registered; None for torch's own and for everything else."""
    if isinstance(node.target, torch._ops.OpOverload):
        namespace = node.target.namespace
    elif isinstance(node.target, torch._ops.OpOverloadPacket):
        namespace = node.target._qualified_op_name.partition("::")[0]
    else:
        return None
    return None if namespace in ("aten", "prims", "prim") else _overload(node)._schema


def short_name(node: fx.Node) -> str:
    """An operator's name without its namespace."""
    return _overload(node)._schema.name.partition("::")[2]


def call_name(node: fx.Node) -> str:
    """Of the function or method that a node calls."""
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")


def written_by(node: fx.Node) -> list[fx.Node]:
    """The arguments that an operator declares to write."""
    arguments = _arguments(node)
    return [arguments[place] for place in _written_places(node)]


def nodes_in(value: Any) -> Iterator[fx.Node]:
    """The nodes in an argument, or in several."""
    found: list[fx.Node] = []
    fx.node.map_arg(value, found.append)
    yield from found


def _arguments(node: fx.Node) -> tuple[Any, ...]:
    """In the schema's order."""
    schema = _overload(node)._schema
    by_name = dict(zip((argument.name for argument in schema.arguments), node.args, strict=False)) | node.kwargs
    return tuple(by_name.get(argument.name, argument.default_value) for argument in schema.arguments)


def _written_places(node: fx.Node) -> list[int]:
    declared = zip(_overload(node)._schema.arguments, _arguments(node), strict=True)
    return [
        place
        for place, (argument, value) in enumerate(declared)
        if argument.alias_info is not None and argument.alias_info.is_write and isinstance(value, fx.Node)
    ]


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


_EMPTY = ("new_empty", "empty", "empty_like")


def _is_empty(value: fx.Node, writer: fx.Node) -> bool:
    """Whether a value was allocated and nothing else when `writer` gets it."""
    return call_name(value) in _EMPTY and next(iter(value.users)) is writer
