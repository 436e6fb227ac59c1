"""One bucket's captures, and how a step of so many tokens is run with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from gpubench.errors import ArgumentError
from gpubench.graphs.piecewise.operators import Operator
from gpubench.graphs.piecewise.seam import Graph
from gpubench.graphs.piecewise.split import Piece, Plan
from gpubench.graphs.piecewise.trace import PerToken
from gpubench.graphs.places import Places, copy_argument

__all__ = ["Call", "Entry", "OutputInfo", "call_operator", "call_piece", "learn_output"]

Values = Mapping[fx.Node, Any]
Part = Callable[[Sequence[Tensor]], None]
"""A part of a program: it takes what comes with the step."""


@dataclass(frozen=True)
class OutputInfo:
    """What a dynamic operator returned at warm-up: kept for each operator, since several may follow one piece."""

    shape: tuple[int, ...]
    """For as many tokens as the bucket has."""
    dtype: torch.dtype
    device: torch.device

    def allocate(self) -> Tensor:
        """Memory for it."""
        return torch.empty(self.shape, dtype=self.dtype, device=self.device)


def learn_output(operator: Operator, returned: Any, num_tokens: int, bucket: int) -> OutputInfo:
    """What an operator returned for so many tokens; ArgumentError if its fake had told the trace otherwise."""
    example = operator.node.meta["example_value"]
    want, whole = (
        operator.rows.shape(example, count) if operator.rows else tuple(example.shape) for count in (num_tokens, bucket)
    )
    if not isinstance(returned, Tensor) or (tuple(returned.shape), returned.dtype) != (want, example.dtype):
        got = f"{tuple(returned.shape)} {returned.dtype}" if isinstance(returned, Tensor) else repr(returned)
        raise ArgumentError(f"{operator.name} returned {got}; its fake said {want} {example.dtype}")
    return OutputInfo(whole, returned.dtype, returned.device)


def call_piece(piece: Piece, values: Values) -> dict[fx.Node, Any]:
    """Run a piece eagerly."""
    found = piece.module(*(values[node] for node in piece.inputs))
    return dict(zip(piece.outputs, found, strict=True))


def call_operator(operator: Operator, values: Values, plan: Plan, num_tokens: int) -> Any:
    """Run an operator on the rows of the first tokens."""
    arguments = []
    for argument in operator.arguments:
        is_node = isinstance(argument, fx.Node)
        arguments.append(plan.cut(argument, values[argument], num_tokens) if is_node else argument)
    return operator.target(*arguments)


class Call:
    """An operator at its place in a bucket's program, bound to the values around it."""

    def __init__(self, operator: Operator, plan: Plan, values: Values, homes: Mapping[int, Tensor]) -> None:
        """`homes` are buffers for what it writes, by the number of its argument: there it gets new ones each time."""
        self.operator = operator
        self._plan = plan
        self._rows = [plan.rows(argument) if isinstance(argument, fx.Node) else None for argument in operator.arguments]
        self._values: list[Any] = [
            values.get(argument) if isinstance(argument, fx.Node) else argument for argument in operator.arguments
        ]
        self._live = [
            (place, plan.live[argument])
            for place, argument in enumerate(operator.arguments)
            if isinstance(argument, fx.Node) and argument in plan.live
        ]
        self._result = values[operator.node] if operator.returns else None
        self._homes = homes

    def bind(self, num_tokens: int) -> BoundCall:
        """The call for so many tokens: everything but the state is known then."""
        arguments, padding = [], []
        for place, (value, rows) in enumerate(zip(self._values, self._rows, strict=True)):
            argument = self.operator.arguments[place]
            is_known = isinstance(argument, fx.Node) and argument not in self._plan.live
            arguments.append(self._plan.cut(argument, value, num_tokens) if is_known else value)
            if rows and place in (*self.operator.outputs, *self.operator.updated):
                padding.append(rows.after(self._homes.get(place, value), num_tokens))
        result, rows = self._result, self.operator.rows
        if result is not None and rows is not None:
            padding.append(rows.after(result, num_tokens))
            result = rows.first(result, num_tokens)
        homes = {place: self._first(place, home, num_tokens) for place, home in self._homes.items()}
        padding = [value for value in padding if value.numel()]
        return BoundCall(self.operator.target, arguments, self._live, result, list(homes.items()), padding)

    def _first(self, place: int, value: Tensor, num_tokens: int) -> Tensor:
        rows = self._rows[place]
        return rows.first(value, num_tokens) if rows else value


@dataclass(frozen=True)
class BoundCall:
    """A call for a number of tokens."""

    target: Callable[..., Any]
    arguments: list[Any]
    live: list[tuple[int, int]]
    """The places of arguments that come with the step, and theirs among what comes with it."""
    result: Tensor | None
    """Where what it returns goes."""
    homes: list[tuple[int, Tensor]]
    """Arguments that it gets new at every call, and where what it wrote goes."""
    padding: list[Tensor]
    """The rows after the tokens': zero, so that no piece computes with what was there before."""

    def __call__(self, live: Sequence[Tensor]) -> None:
        arguments = self.arguments.copy()
        for place, index in self.live:
            arguments[place] = live[index]
        for place, home in self.homes:
            arguments[place] = torch.empty_like(home)
        returned = self.target(*arguments)
        if self.result is not None:
            self.result.copy_(returned)
        for place, home in self.homes:
            home.copy_(arguments[place])
        for rows in self.padding:
            rows.zero_()


class Replay:
    """A captured piece in a program."""

    def __init__(self, graph: Graph) -> None:
        self._replay = graph.replay

    def __call__(self, _live: Sequence[Tensor]) -> None:
        self._replay()


@dataclass(frozen=True)
class Program:
    """A step of a number of tokens."""

    num_tokens: int
    parts: list[Part]
    inputs: list[tuple[int, Tensor]]
    """Which argument goes where …"""
    padding: list[Tensor]
    """… and the zeros after them."""
    outputs: Any
    """What the step returns, always the same tensors; None if the head has yet to make it."""
    head_inputs: list[Any]

    def fill(self, per_token: Sequence[Tensor], name: str) -> None:
        """Copy the step's arguments to where the pieces find them; ArgumentError for one of another shape or dtype."""
        for index, buffer in self.inputs:
            copy_argument(buffer, per_token[index], f"{name}: argument {index}")
        for rows in self.padding:
            rows.zero_()


@dataclass
class Entry:
    """A bucket that has been captured."""

    bucket: int
    plan: Plan
    graphs: list[Graph]
    parts: list[Call | Graph]
    head: Piece | None
    """What runs eagerly after all else."""
    values: dict[fx.Node, Any]
    """What the head and the step's caller get to see, for as many tokens as the bucket has."""
    places: Places
    """Where the state's tensors were, and their sizes, which the trace may have taken for constants."""
    programs: dict[int, Program] = field(default_factory=dict)

    def program(self, num_tokens: int) -> Program:
        """The program for a number of tokens that the bucket holds."""
        found = self.programs.get(num_tokens)
        if found is None:
            found = self.programs[num_tokens] = self._bind(num_tokens)
        return found

    def _bind(self, num_tokens: int) -> Program:
        parts: list[Part] = [
            Replay(part) if not isinstance(part, Call) else part.bind(num_tokens) for part in self.parts
        ]
        per_token = [(source.index, node) for node, source in self.plan.inputs.items() if isinstance(source, PerToken)]
        inputs = [(index, self._first(node, num_tokens)) for index, node in per_token]
        padding = [self.values[node][num_tokens:] for _, node in per_token if num_tokens < self.bucket]
        if self.head is None:
            outputs = self.plan.pack([self._first(node, num_tokens) for node in self.plan.outputs])
            return Program(num_tokens, parts, inputs, padding, outputs, [])
        rows = self.plan.traced.sizes.exact or num_tokens  # a graph for one number has it in its shapes
        head_inputs = [self._first(node, rows) for node in self.head.inputs]
        return Program(num_tokens, parts, inputs, padding, None, head_inputs)

    def _first(self, node: fx.Node, num_tokens: int) -> Any:
        return self.plan.cut(node, self.values[node], num_tokens)

    def run_head(self, program: Program) -> Any:
        """Run what was left outside the graphs, on as many rows as there are tokens."""
        assert self.head is not None, "only where one was left outside"
        made = dict(zip(self.head.outputs, self.head.module.forward(*program.head_inputs), strict=True))
        found = ((node, made[node] if node in made else self.values[node]) for node in self.plan.outputs)
        return self.plan.pack([self.plan.cut(node, value, program.num_tokens) for node, value in found])
