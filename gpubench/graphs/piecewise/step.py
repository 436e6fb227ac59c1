"""A step in pieces: warm up, capture, replay, and capture again when the cache has moved.

The phases are explicit. Warming up runs every bucket eagerly, so that kernels are compiled and libraries have their
workspaces, and learns what dynamic operators return; it captures nothing. Capturing makes an entry for each bucket,
the largest first, so that the smaller ones fit into the memory it has left in the pool. A step then runs the entry of
the next larger bucket: pieces are replayed, and operators run between them on the rows that are tokens.

A graph remembers addresses. When the cache is allocated anew, `reset` drops all that was captured and learned; a step
that comes before that is refused.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, fx

from gpubench.default_device import without_default_device
from gpubench.errors import ArgumentError
from gpubench.graphs.cost import BucketCost, Meter
from gpubench.graphs.piecewise.buckets import find_bucket
from gpubench.graphs.piecewise.capture import BucketCapture
from gpubench.graphs.piecewise.entry import Entry, OutputInfo, call_operator, call_piece, learn_output
from gpubench.graphs.piecewise.seam import Graphs
from gpubench.graphs.piecewise.split import Piece, Plan, split
from gpubench.graphs.piecewise.trace import Constant, NumTokens, PerToken
from gpubench.graphs.piecewise.traces import Traces
from gpubench.graphs.places import Places

__all__ = ["Arguments", "Options", "PiecewiseStep"]

Values = dict[fx.Node, Any]
Arguments = Callable[[int], Sequence[Any]]
"""Gives the arguments of a step of no more tokens than a bucket has, for warming it up or capturing it."""


@dataclass(frozen=True)
class Options:
    """How a step is captured in pieces."""

    buckets: tuple[int, ...]
    """Numbers of tokens, ascending; see `buckets.choose_buckets`."""
    out_buffers: Literal["owned", "per_call"] = "owned"
    """Operators' outputs: in memory of the piece before, or allocated at every call and copied to where the next piece
    finds them, in a buffer of its own."""
    pool: Literal["shared", "private"] = "shared"
    """One memory pool for all buckets, or one for each."""
    head: Literal["inside", "outside"] = "inside"
    """The product with the head's weight: captured, for as many tokens as the bucket has, or eager, for those there
    are."""
    streams: Literal[1, 2] = 1
    """With 2, pieces fork where the step reads certain weights, and what follows from these runs on a second stream."""


class PiecewiseStep:
    """A step cut at the operators that use its state, captured in pieces for several numbers of tokens.

    `step(*per_token, state)` takes tensors whose first dimension is the tokens' and a state that operators read and
    write; what it returns has a row per token, too.
    """

    def __init__(
        self,
        step: Callable[..., Any] | Traces,
        options: Options,
        graphs: Graphs,
        *,
        head: Tensor | None = None,
        beside: Sequence[Tensor] = (),
        name: str = "step",
    ) -> None:
        """`step` may be its traces, for those who cut one step in several ways. `head` is the weight with which
        `head: outside` begins, `beside` are those that `streams: 2` is for."""
        self._traces = step if isinstance(step, Traces) else Traces(step)
        self.options = options
        self.name = name
        self.traced_s = 0.0
        """Seconds that finding traces took so far …"""
        self.trace_time = 0.0
        """… and those that they took whoever had them made."""
        self._graphs = graphs
        self._meter = Meter(graphs)
        self._head = head if options.head == "outside" else None
        self._beside = beside if options.streams == 2 else ()
        self._forget()

    def _forget(self) -> None:
        self._plans: list[Plan] = []
        self._entries: dict[int, Entry] = {}
        self._learned: dict[int, tuple[Plan, dict[fx.Node, OutputInfo]]] = {}
        self._buffers: list[Tensor] = []
        self._copies: dict[fx.Node, Tensor] = {}
        self._pool: Any = None

    @property
    def timed_s(self) -> float:
        """Seconds that measuring took so far."""
        return self._meter.timed_s

    @property
    def eager(self) -> Callable[..., Any]:
        """The step as it was given."""
        return self._traces.step

    @property
    def buckets(self) -> list[int]:
        """Those that have been captured."""
        return sorted(self._entries)

    def warm_up(self, arguments_for: Arguments, times: int = 2) -> None:
        """Run every bucket eagerly. The states must bear it: they advance."""
        for bucket in self.options.buckets:
            self._traces.expect(arguments_for(bucket)[-1])
        for bucket in reversed(self.options.buckets):
            *per_token, state = arguments_for(bucket)
            if not self._buffers:
                largest = self.options.buckets[-1]
                self._buffers = [value.new_zeros(largest, *value.shape[1:]) for value in per_token]
            run = partial(self._run_eagerly, self._plan(bucket, per_token, state), bucket, per_token, state)
            for _ in range(times):
                self._graphs.warm_up(run)

    def capture(self, arguments_for: Arguments) -> list[BucketCost]:
        """Capture every bucket, the largest first, replay it, and say what it has cost."""
        missing = [bucket for bucket in self.options.buckets if bucket not in self._learned]
        if missing:
            raise RuntimeError(f"{self.name}: buckets {missing} haven't been warmed up; call warm_up before capture")
        costs = []
        for bucket in reversed(self.options.buckets):
            if self._pool is None or self.options.pool == "private":
                self._pool = self._graphs.new_pool()
            *per_token, state = arguments_for(bucket)
            capture = partial(self._capture_bucket, bucket, per_token, state)
            replay = partial(self._replay, bucket, per_token, state)
            eager = partial(self.eager, *per_token, state)
            costs.append(self._meter.measure(bucket, self._pool, capture, replay, eager))
        return costs

    def __call__(self, *arguments: Any) -> Any:
        """One step. The outputs are views of the graphs' memory: valid until the next step."""
        *per_token, state = arguments
        return self._replay(find_bucket(self.options.buckets, len(per_token[0])), per_token, state)

    def reset(self) -> None:
        """Drop all graphs, addresses, outputs and what was learned: the cache is going to move. Traces know of none."""
        self._graphs.settle()
        for entry in self._entries.values():
            for graph in entry.graphs:
                graph.reset()
        self._forget()
        self._graphs.settle()

    def device_bytes(self) -> int:
        """What is taken of the device by everybody, once all is at rest."""
        self._graphs.settle()
        return self._graphs.device_bytes()

    def _plan(self, bucket: int, per_token: Sequence[Tensor], state: Any) -> Plan:
        """The step cut for a bucket; buckets share it, unless the step's Python takes another way for one of them."""
        began = time.perf_counter()
        traced = self._traces.find(per_token, state, bucket)
        for plan in self._plans:
            if plan.traced is traced:
                return plan
        self.traced_s += time.perf_counter() - began
        self.trace_time += traced.seconds
        self._plans.append(split(traced, self._head, self._beside))
        return self._plans[-1]

    def _known_values(self, plan: Plan, bucket: int, live: Sequence[Any]) -> Values:
        """What pieces and operators read that no piece makes; what comes with a step is as it is now."""
        values: Values = {}
        for node, source in plan.inputs.items():
            if isinstance(source, Constant):
                values[node] = source.value
            elif isinstance(source, NumTokens):
                values[node] = bucket
            elif isinstance(source, PerToken):
                values[node] = self._buffers[source.index][:bucket]
        for node, place in plan.live.items():
            values[node] = live[place]
        for node in plan.copied:
            value = live[plan.live[node]]
            if node not in self._copies:
                self._copies[node] = torch.empty_like(value)
            self._copies[node].copy_(value)
        return values

    @without_default_device()
    def _run_eagerly(self, plan: Plan, bucket: int, per_token: Sequence[Tensor], state: Any) -> None:
        """A padded step without graphs."""
        num_tokens = len(per_token[0])
        live = plan.find_live([path.get(state) for path in plan.paths])
        values = self._known_values(plan, bucket, live)
        for node, source in plan.inputs.items():
            if isinstance(source, PerToken):
                values[node].zero_()[:num_tokens] = per_token[source.index]
        learned: dict[fx.Node, OutputInfo] = {}
        for part in plan.parts:
            if isinstance(part, Piece):
                values.update(call_piece(part, values | self._copies))
                continue
            returned = call_operator(part, values, plan, num_tokens)
            if part.returns:
                info = learned[part.node] = learn_output(part, returned, num_tokens, bucket)
                whole = values[part.node] = info.allocate().zero_()
                (part.rows.first(whole, num_tokens) if part.rows else whole).copy_(returned)
        self._learned[bucket] = plan, learned

    def _capture_bucket(self, bucket: int, per_token: Sequence[Tensor], state: Any) -> None:
        plan = self._plan(bucket, per_token, state)
        warmed_up, learned = self._learned[bucket]
        if plan is not warmed_up:
            raise ArgumentError(
                f"{self.name}: bucket {bucket} was warmed up with a state of other sizes or values than it is to be "
                "captured with"
            )
        places = Places.of(state, plan.paths)
        values = self._known_values(plan, bucket, plan.find_live([path.get(state) for path in plan.paths]))
        capture = BucketCapture(plan, bucket, self.options.out_buffers, self._graphs, self._pool)
        self._entries[bucket] = capture.run(values, self._copies, learned, places)

    def _replay(self, bucket: int, per_token: Sequence[Tensor], state: Any) -> Any:
        entry = self._entries.get(bucket)
        if entry is None:
            raise RuntimeError(f"{self.name}: bucket {bucket} isn't captured; call warm_up and capture first")
        live = entry.plan.find_live(entry.places.tensors(state, f"{self.name}: the graphs of bucket {bucket}"))
        program = entry.program(len(per_token[0]))
        program.fill(per_token, self.name)
        for node in entry.plan.copied:
            self._copies[node].copy_(live[entry.plan.live[node]])
        for part in program.parts:
            part(live)
        return program.outputs if entry.head is None else entry.run_head(program)
