"""A step captured whole, as one CUDA graph for each of several numbers of rows: the largest first, into one pool.

Rows after those of a step are idle: what they hold is the step's own business, but they mean nothing and change
nothing. So a step of any number of rows is a replay of the next larger bucket.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from gpubench.default_device import without_default_device
from gpubench.graphs.cost import BucketCost, Meter
from gpubench.graphs.piecewise.buckets import find_bucket
from gpubench.graphs.piecewise.seam import Graph, Graphs
from gpubench.graphs.piecewise.step import Arguments
from gpubench.graphs.places import Places, copy_argument

__all__ = ["BucketedStep"]


class BucketedStep:
    """`step(*per_row, state)` takes tensors with a row each and a state that it reads and writes, and returns a tensor
    with a row each. Shapes are static and nothing synchronises."""

    def __init__(
        self,
        step: Callable[..., Tensor],
        buckets: Sequence[int],
        idle: Sequence[int],
        graphs: Graphs,
        name: str = "step",
    ) -> None:
        """`idle` is what an idle row holds, for each of the arguments `per_row`."""
        self.eager = step
        """The step as it was given."""
        self.name = name
        self.traced_s = self.trace_time = 0.0
        """Nothing is traced."""
        self._buckets, self._idle = tuple(buckets), tuple(idle)
        self._graphs = graphs
        self._meter = Meter(graphs)
        self._forget()

    def _forget(self) -> None:
        self._captured: dict[int, Graph] = {}
        self._outputs: dict[int, Tensor] = {}
        self._inputs: list[Tensor] = []
        self._places: Places | None = None

    @property
    def timed_s(self) -> float:
        """Seconds that measuring took so far."""
        return self._meter.timed_s

    def warm_up(self, arguments_for: Arguments, times: int = 2) -> None:
        """Run every bucket eagerly. The state must bear it."""
        for bucket in reversed(self._buckets):
            run = partial(self.eager, *arguments_for(bucket))
            with without_default_device():
                for _ in range(times):
                    self._graphs.warm_up(run)

    def capture(self, arguments_for: Arguments) -> list[BucketCost]:
        """Capture every bucket, the largest first, replay it, and say what it has cost.

        They all have one state, and as many rows as the bucket.
        """
        pool, costs = self._graphs.new_pool(), []
        for bucket in reversed(self._buckets):
            *per_row, state = arguments_for(bucket)
            if not self._inputs:
                self._inputs = [value.clone() for value in per_row]
                self._places = Places.of(state)
            capture = partial(self._capture_bucket, bucket, state, pool)
            replay, eager = partial(self, *per_row, state), partial(self.eager, *per_row, state)
            costs.append(self._meter.measure(bucket, pool, capture, replay, eager))
        return costs

    def __call__(self, *arguments: Any) -> Tensor:
        """One step. What it returns is the graph's memory: valid until the next step."""
        *per_row, state = arguments
        rows = len(per_row[0])
        bucket = find_bucket(self._buckets, rows)
        if self._places is None or bucket not in self._captured:
            raise RuntimeError(f"{self.name}: bucket {bucket} isn't captured; call warm_up and capture first")
        self._places.tensors(state, f"{self.name}: the graphs of bucket {bucket}")
        for number, (buffer, value, idle) in enumerate(zip(self._inputs, per_row, self._idle, strict=True)):
            copy_argument(buffer[:rows], value, f"{self.name}: argument {number}")
            if rows < bucket:
                buffer[rows:bucket].fill_(idle)
        self._captured[bucket].replay()
        return self._outputs[bucket][:rows]

    def reset(self) -> None:
        """Drop all graphs, addresses and outputs: the state is going to move."""
        self._graphs.settle()
        for graph in self._captured.values():
            graph.reset()
        self._forget()
        self._graphs.settle()

    def _capture_bucket(self, bucket: int, state: Any, pool: Any) -> None:
        inputs = [buffer[:bucket] for buffer in self._inputs]
        self._captured[bucket], self._outputs[bucket] = self._graphs.capture(partial(self.eager, *inputs, state), pool)
