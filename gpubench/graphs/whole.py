"""A step captured as one CUDA graph: warm up, capture, replay.

A graph remembers addresses, not tensors. So inputs are copied into buffers of the graph's own before each replay,
outputs are read from where the capture put them, and whatever else the step reads is kept alive by keeping the step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from gpubench.graphs.places import copy_argument
from gpubench.graphs.switch import are_graphs_off

__all__ = ["BoundStep", "CapturedStep", "capture_step"]

T = TypeVar("T")


class CapturedStep(Generic[T]):
    """A captured step. Calling it replays the graph and returns the same output tensors every time."""

    def __init__(self, step: Callable[..., T], graph: torch.cuda.CUDAGraph, inputs: tuple[Tensor, ...], outputs: T):
        self.eager = step
        """The step as it was given, which runs without the graph."""
        self._graph: torch.cuda.CUDAGraph | None = graph
        self._inputs = inputs
        self._outputs = outputs

    def __call__(self, *inputs: Tensor) -> T:
        """Copy `inputs`, of the shapes and dtypes that were captured, into the graph's buffers and replay."""
        if self._graph is None:
            raise RuntimeError("this step's graph has been closed; capture it again")
        for number, (buffer, value) in enumerate(zip(self._inputs, inputs, strict=True)):
            copy_argument(buffer, value, f"a captured step's input {number}")
        self._graph.replay()
        return self._outputs

    def bind(self, *inputs: Tensor) -> BoundStep[T]:
        """The step for these inputs, as a backend's set-up returns it."""
        return BoundStep(self, inputs)

    def close(self) -> None:
        """Drop the graph, and with it the memory it owns: outputs that were handed out are no longer to be read."""
        if self._graph is not None:
            torch.cuda.synchronize()  # a replay may still be running
            self._graph.reset()
            self._graph = None


class _UncapturedStep(CapturedStep[T]):
    """A step that would have been captured, were graphs not switched off: every call runs it."""

    def __init__(self, step: Callable[..., T]):
        self.eager = step
        self._graph = None

    def __call__(self, *inputs: Tensor) -> T:
        """Run the step eagerly."""
        return self.eager(*inputs)


@dataclass(frozen=True)
class BoundStep(Generic[T]):
    """A captured step with its inputs. A benchmark that finds `eager` on a step compares what the two run."""

    captured: CapturedStep[T]
    inputs: tuple[Tensor, ...]

    def __call__(self) -> T:
        """Replay the graph on the inputs."""
        return self.captured(*self.inputs)

    def eager(self) -> T:
        """Run the step on the inputs without the graph."""
        return self.captured.eager(*self.inputs)


def capture_step(step: Callable[..., T], *inputs: Tensor, warmups: int = 3, pool: Any = None) -> CapturedStep[T]:
    """Capture `step(*inputs)` on the current device.

    `step` must have static shapes, must not synchronise, and must leave behind the same state when it is run again:
    it runs `warmups` times before it is captured, which is when kernels are compiled and libraries take their
    workspaces. The graph's memory comes from `pool`, a handle of torch.cuda.graph_pool_handle(), else from its own.
    With GPUBENCH_GRAPHS=off nothing is captured, and the step that is returned runs eagerly.
    """
    if are_graphs_off():
        return _UncapturedStep(step)
    buffers = tuple(value.clone() for value in inputs)
    graph = torch.cuda.CUDAGraph()
    capture = torch.cuda.graph(graph, pool=pool)
    stream = capture.capture_stream  # one for the whole process: warm-up leaves its workspaces where capture looks
    assert stream is not None, "torch has a stream of its own for captures"
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(warmups):
            step(*buffers)
    torch.cuda.current_stream().wait_stream(stream)
    with capture:
        outputs = step(*buffers)
    return CapturedStep(step, graph, buffers, outputs)
