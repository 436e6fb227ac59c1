"""A step as a graph: traced by Dynamo with its number of tokens left open, and taken from Dynamo for good.

Dynamo only traces. What it would do at every call (check its guards, some hundreds for a deep model) is done by nobody:
the graph is called with the inputs that were found in the step's arguments by identity.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from gpubench.default_device import without_default_device
from gpubench.errors import Unsupported
from gpubench.graphs.piecewise.counts import AnyNumber, OneNumber, Sizes
from gpubench.graphs.piecewise.rows import Rows
from gpubench.graphs.places import Path, state_parts, state_tensors
from gpubench.kernels.ops import cut_at_seams

__all__ = [
    "Constant",
    "Input",
    "NumTokens",
    "PerToken",
    "SizesUsed",
    "State",
    "StateSizes",
    "Step",
    "Traced",
    "trace_step",
]

Step = Callable[..., Any]
"""`step(*per_token, state)`: tensors whose first dimension is the tokens', and what is remembered between steps."""


@dataclass(frozen=True)
class PerToken:
    """The argument with this index, a tensor with a row per token."""

    index: int


@dataclass(frozen=True)
class State:
    """A tensor of the step's last argument."""

    path: Path
    again: tuple[Path, ...] = ()
    """Where it is once more: layers may share a cache."""


@dataclass(frozen=True)
class Constant:
    """A weight: anything that is no argument. It is kept alive, and may not move."""

    value: Any


@dataclass(frozen=True)
class NumTokens:
    """The number of tokens itself."""


Input = PerToken | State | Constant | NumTokens


@dataclass(frozen=True)
class Traced:
    """A step's graph, and where its inputs come from and its outputs go."""

    graph: fx.Graph
    inputs: tuple[Input, ...]
    """One for each placeholder of the graph."""
    outputs: tuple[int, ...]
    """For each leaf of what the step returns, its place among the graph's outputs …"""
    structure: pytree.TreeSpec
    """… and how the leaves are put together."""
    sizes: Sizes
    seconds: float = 0.0
    """What tracing it took."""

    def admits(self, num_tokens: int) -> bool:
        """Whether a step of so many tokens is this graph, too."""
        return self.sizes.admit(num_tokens)

    def rows(self, node: fx.Node) -> Rows | None:
        """Where the tokens are in a value of the graph."""
        return self.sizes.rows(node)


StateSizes = tuple[tuple[int | None, ...], ...]
"""The shapes of a state's tensors; None for a size that may be any from 2 on."""


class SizesUsed(Exception):
    """A step makes use of a state's sizes that were left open."""


def trace_step(
    step: Step,
    per_token: Sequence[Tensor],
    state: Any,
    num_tokens: int,
    sizes: StateSizes = (),
    others: Sequence[Traced] = (),
) -> Traced:
    """The graph of `step` for `num_tokens` tokens and others like it; nothing is run.

    `per_token` are tensors like those the step will get, of any number of rows. `sizes`, if given, are the state's, and
    those that are None are left open. `others` are for other numbers of tokens: no need to try these. Unsupported if
    the step can't be traced in one piece, or not for any number of tokens: what it does with the state must be in
    operators; SizesUsed if it makes use of what was left open.
    """
    trace = partial(_trace, step, per_token, state, sizes)
    for number in _numbers_like(num_tokens, state, others):
        try:
            traced = trace(number)
        except Unsupported:  # this number may be the only one of its kind, which is no symbol then
            continue
        if traced.admits(num_tokens):
            return traced
    return _trace_exactly(trace, num_tokens)


def _numbers_like(num_tokens: int, state: Any, others: Sequence[Traced]) -> Iterable[int]:
    """The numbers of tokens to trace with, one after the other, so that the graph is for `num_tokens`, too."""

    def is_elsewhere(number: int) -> bool:
        return number < 2 or any(traced.admits(number) for traced in others)

    if num_tokens < 2 or (is_elsewhere(num_tokens - 1) and is_elsewhere(num_tokens + 1)):
        return ()  # it is the only one of its kind, which is no symbol
    # No size of the state: else the number of tokens would be taken for it, or the state's for the number of tokens.
    taken = {size for _, value in state_tensors(state) for size in value.shape}
    near = (*range(num_tokens, num_tokens + len(taken) + 1), *range(num_tokens - 1, 1, -1))
    odd = next((number for number in near if number not in taken and not is_elsewhere(number)), num_tokens)
    return dict.fromkeys((odd, num_tokens))


def _trace_exactly(trace: Callable[..., Traced], num_tokens: int) -> Traced:
    """The graph for one number of tokens, and where they are in its values, by comparison with one less or one more."""
    exact = trace(num_tokens, is_dynamic=False)
    if num_tokens == 1:
        return exact  # there is never a row of padding
    nodes = list(exact.graph.nodes)
    for other in (num_tokens - 1, num_tokens + 1):
        twin = list(trace(other, is_dynamic=False).graph.nodes)
        if [(node.op, str(node.target)) for node in nodes] == [(node.op, str(node.target)) for node in twin]:
            return replace(exact, sizes=OneNumber(num_tokens, other, dict(zip(nodes, twin, strict=True))))
    raise Unsupported(f"piecewise: {num_tokens} tokens take another way through the step than one less or one more")


@without_default_device()
def _trace(
    step: Step,
    per_token: Sequence[Tensor],
    state: Any,
    sizes: StateSizes,
    num_tokens: int,
    *,
    is_dynamic: bool = True,
) -> Traced:
    from torch.fx.experimental import symbolic_shapes  # with Dynamo, most of a second: not for every worker's start

    rows = [value.new_zeros(num_tokens, *value.shape[1:]) for value in per_token]
    for value in rows:
        if is_dynamic:
            torch._dynamo.mark_dynamic(value, 0)
    catcher = _Catcher()
    compiled = torch.compile(_fresh(step), backend=catcher, fullgraph=True, dynamic=False)
    try:
        with torch.no_grad(), cut_at_seams(), _left_open(state, sizes), _lent(state) as own:
            returned = compiled(*rows, own)
    except (torch._dynamo.exc.TorchDynamoException, symbolic_shapes.ConstraintViolationError) as error:
        lines = str(error).strip().split("\n")
        reason = next((line.strip() for line in lines if "Explanation:" in line), lines[0])
        raise Unsupported(
            "piecewise: the step can't be traced for any number of tokens; what uses the cache must be in operators "
            f"registered with torch, as it is with attention: triton. Dynamo says: {reason[:300]}"
        ) from error
    traced = catcher.traced(rows, state, returned)
    catcher.forget()
    if any(size is None for own in sizes for size in own):
        _refuse_sizes(traced)
    return traced


@contextmanager
def _left_open(state: Any, sizes: StateSizes) -> Iterator[None]:
    """A block in which Dynamo takes those sizes of a state that are None for symbols."""
    tensors = [value for _, value in state_tensors(state)] if sizes else []
    before = [dict(vars(value)) for value in tensors]
    for value, own in zip(tensors, sizes, strict=True):
        for dim, size in enumerate(own):
            if size is None:
                torch._dynamo.maybe_mark_dynamic(value, dim)
    try:
        yield
    finally:
        for value, attributes in zip(tensors, before, strict=True):  # the marks are some
            vars(value).clear()
            vars(value).update(attributes)


@contextmanager
def _lent(state: Any) -> Iterator[Any]:
    """The same tensors and values in containers of their own, for a trace: Dynamo runs what the step's Python does to
    them, with outputs that are nothing. Unsupported for a step that replaces one: a replay wouldn't."""
    before = dict(state_parts(state))
    own = copy.deepcopy(state, {id(value): value for value in before.values()})
    yield own
    after = dict(state_parts(own))
    for path in (*before, *after):
        if path not in before or path not in after or before[path] is not after[path]:
            raise Unsupported(
                f"piecewise: the step puts something else at {path} of its state; a replay can't: write into the "
                "tensor that is there, in an operator"
            )


def _refuse_sizes(traced: Traced) -> None:
    """SizesUsed if the graph, or what its trace took for granted, knows of another size than the number of tokens."""
    own = {traced.sizes.symbol} if isinstance(traced.sizes, AnyNumber) else set()
    used: set[Any] = set()
    environments: dict[int, Any] = {}
    for node in traced.graph.nodes:
        value = node.meta.get("example_value")
        is_argument = node.op == "placeholder" and (isinstance(value, Tensor) or not node.users)
        for size in (*value.shape, *value.stride()) if isinstance(value, Tensor) else (value,):
            if isinstance(size, torch.SymInt):
                symbolic: Any = size.node
                environments[id(symbolic.shape_env)] = symbolic.shape_env
                used.update(() if is_argument else symbolic.expr.free_symbols)
    for environment in environments.values():
        used.update(*(environment.replace(guard.expr).free_symbols for guard in environment.guards))
    if not used <= own:
        raise SizesUsed


_numbers = itertools.count()
_OF_ARGUMENTS = "L_arguments_"
"""What Dynamo's names for what `traced_step` is given begin with."""


def _fresh(step: Step) -> Step:
    """The step behind code of its own: Dynamo counts what it has compiled by code, and gives up after a few."""

    def traced_step(*arguments: Any) -> Any:
        return step(*arguments)

    code = traced_step.__code__.replace(co_name=f"traced_step_{next(_numbers)}")
    return FunctionType(code, globals(), code.co_name, closure=traced_step.__closure__)


class _Catcher:
    """A backend for Dynamo that keeps the graph and what it was called with, and computes nothing."""

    def __init__(self) -> None:
        self.graph: fx.Graph | None = None
        self.arguments: tuple[Any, ...] = ()
        self.outputs: list[Tensor] = []

    def __call__(self, module: fx.GraphModule, _examples: Sequence[Any]) -> Callable[..., Any]:
        self.graph = module.graph
        attributes = [node.target for node in module.graph.find_nodes(op="get_attr")]
        assert not attributes, f"Dynamo makes weights inputs of its graphs, but left {attributes} attributes"
        results = module.graph.output_node().args[0]
        assert isinstance(results, tuple | list), "Dynamo's graphs return tuples"
        self.outputs = [torch.empty(0, device="cpu") for _ in results]
        return self._run

    def _run(self, *arguments: Any) -> list[Tensor]:
        self.arguments = arguments
        return self.outputs

    def forget(self) -> None:
        """Let go of all: Dynamo keeps every backend that it was ever given, and this one a cache of gigabytes."""
        self.graph, self.arguments, self.outputs = None, (), []

    def traced(self, per_token: Sequence[Tensor], state: Any, returned: Any) -> Traced:
        if self.graph is None:
            raise Unsupported("piecewise: the step computes nothing that could be captured")
        leaves, structure = pytree.tree_flatten(returned)
        places = {id(output): place for place, output in enumerate(self.outputs)}
        for leaf in leaves:
            if id(leaf) not in places:
                what = "a tensor that it was given" if isinstance(leaf, Tensor) else repr(leaf)
                raise Unsupported(f"piecewise: the step returns {what}; wanted tensors that it computes, and no more")
        known: dict[int, Input] = {id(value): PerToken(index) for index, value in enumerate(per_token)}
        for path, value in state_tensors(state):
            before = known.get(id(value))
            known[id(value)] = (
                replace(before, again=(*before.again, path)) if isinstance(before, State) else State(path)
            )
        inputs = self._inputs(known)
        sizes = self._sizes(inputs)
        return Traced(self.graph, tuple(inputs), tuple(places[id(leaf)] for leaf in leaves), structure, sizes)

    def _inputs(self, known: dict[int, Input]) -> list[Input]:
        """What the graph was called with."""
        assert self.graph is not None, "there is a graph"
        found: list[Input] = []
        for node, value in zip(self.graph.find_nodes(op="placeholder"), self.arguments, strict=True):
            source = NumTokens() if isinstance(value, int) else known.get(id(value), Constant(value))
            if isinstance(source, Constant) and str(node.target).startswith(_OF_ARGUMENTS):
                name = str(node.target).removeprefix(_OF_ARGUMENTS)
                raise Unsupported(
                    f"piecewise: the step uses {name}, a tensor that is in no field of a dataclass, no mapping and no "
                    "list of its state: it would not be found again when it moves"
                )
            found.append(source)
        return found

    def _sizes(self, inputs: Sequence[Input]) -> Sizes:
        """What the shape of an argument with a row per token says of their number."""
        assert self.graph is not None, "there is a graph"
        for node, source in zip(self.graph.find_nodes(op="placeholder"), inputs, strict=True):
            if isinstance(source, PerToken):
                size = node.meta["example_value"].shape[0]
                if not isinstance(size, torch.SymInt):
                    return OneNumber(size)
                symbol: Any = size.node
                # Each argument begins with a symbol of its own; that they are one is known by the end.
                guards = (symbol.shape_env.replace(guard.expr) for guard in symbol.shape_env.guards)
                return AnyNumber(symbol.expr, tuple(guards))
        raise Unsupported("piecewise: the step doesn't depend on its tokens")
