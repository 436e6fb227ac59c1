"""Sees every CUDA graph that torch captures, whosever code does it, and keeps what an audit of its addresses needs.

torch drops a graph's nodes once it has made the graph executable. While a watch is open, torch.cuda.CUDAGraph keeps
them: the same graph is made, and made executable at the same moment. A graph that a library captures by itself, behind
torch's back, is not seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch

from gpubench.graphs.audit import Audit, Captured, audit
from gpubench.graphs.memory import Memory, read_memory
from gpubench.graphs.nodes import can_read_nodes, is_valid_address, read_nodes

__all__ = ["CaptureWatch", "read_state"]

MOST_ENTRIES = 100_000
"""Of what the allocator does while it is recorded; beyond these the oldest is forgotten."""

_Graph = torch.cuda.CUDAGraph
_HOOKED = ("__init__", "capture_begin", "capture_end")


@dataclass
class _Capture:
    """A graph under watch: when its capture began, and what it is now that it has ended."""

    before: Memory
    captured: Captured | None = None


class CaptureWatch:
    """Watches captures from `open` to `close`; also records what the allocator does, until `stop_recording`."""

    def __init__(self) -> None:
        self.problem = "" if can_read_nodes() else "cuda-bindings is not installed; pip install 'gpubench[audit]'"
        """Why graphs can't be audited; "" if they can."""
        if not self.problem and torch.cuda.get_allocator_backend() != "native":
            self.problem = f"torch's allocator is {torch.cuda.get_allocator_backend()}, which doesn't say what is free"
        self.num_seen = 0
        """Graphs captured so far, those that are gone by now among them."""
        self._graphs: WeakKeyDictionary[torch.cuda.CUDAGraph, _Capture] = WeakKeyDictionary()
        self._is_to_keep: WeakKeyDictionary[torch.cuda.CUDAGraph, bool] = WeakKeyDictionary()
        """What their makers asked for, of the graphs that were made while this was open."""
        self._originals: dict[str, Any] = {}
        self._is_recording = False

    @property
    def captured(self) -> list[Captured]:
        """The graphs that can still be replayed."""
        return [
            capture.captured
            for graph, capture in list(self._graphs.items())
            if capture.captured is not None and _is_there(graph)
        ]

    def open(self) -> None:
        """Begin to watch."""
        self._originals = {name: vars(_Graph).get(name) for name in _HOOKED}
        for name, hook in (("__init__", self._init), ("capture_begin", self._begin), ("capture_end", self._end)):
            setattr(_Graph, name, hook(getattr(_Graph, name)))
        if not self.problem:
            torch.cuda.memory._record_memory_history("all", "all", "python", MOST_ENTRIES, clear_history=True)
            self._is_recording = True

    def stop_recording(self) -> None:
        """Let the allocator run as fast as it can; of what is freed from now on, only the result is seen."""
        if self._is_recording:
            torch.cuda.memory._record_memory_history(None)
            torch.cuda.memory._record_memory_history(None, clear_history=True)
            self._is_recording = False

    def close(self) -> None:
        """Leave everything as it was."""
        self.stop_recording()
        for name, original in self._originals.items():
            if original is None:
                delattr(_Graph, name)
            else:
                setattr(_Graph, name, original)
        self._originals = {}

    def audit(self) -> list[Audit]:
        """Judge the addresses in every graph that can still be replayed, as things are now."""
        graphs = self.captured
        if not graphs:
            return []
        now = read_state()
        pools = {graph.pool for graph in graphs}
        return [audit(graph, now, pools, is_valid_address) for graph in graphs]

    def _init(self, original: Callable[..., None]) -> Callable[..., None]:
        def init(graph: torch.cuda.CUDAGraph, keep_graph: bool = False) -> None:
            if not self.problem:
                self._is_to_keep[graph] = keep_graph
            original(graph, keep_graph or not self.problem)

        return init

    def _begin(self, original: Callable[..., None]) -> Callable[..., None]:
        def capture_begin(graph: torch.cuda.CUDAGraph, *args: Any, **kwargs: Any) -> None:
            if graph in self._is_to_keep:
                self._graphs[graph] = _Capture(read_state().without_trace())
            original(graph, *args, **kwargs)

        return capture_begin

    def _end(self, original: Callable[..., None]) -> Callable[..., None]:
        def capture_end(graph: torch.cuda.CUDAGraph) -> None:
            original(graph)
            self.num_seen += 1
            capture = self._graphs.get(graph)
            if capture is None:
                return
            capture.captured = self._read(graph, capture.before)
            if not self._is_to_keep[graph]:
                graph.instantiate()

        return capture_end

    def _read(self, graph: torch.cuda.CUDAGraph, before: Memory) -> Captured | None:
        try:
            nodes = read_nodes(graph.raw_cuda_graph())
        # The cell's figures are worth more than our knowing. A ValueError is a type of nodes newer than cuda-bindings.
        except (RuntimeError, ValueError) as error:
            self.problem = str(error)
            return None
        return Captured(nodes, graph.pool(), before, read_state().without_trace())


def read_state() -> Memory:
    """What torch's allocator has handed out on the worker's GPU now."""
    return read_memory(torch.cuda.memory._snapshot(), torch.cuda.current_device(), MOST_ENTRIES)


def _is_there(graph: torch.cuda.CUDAGraph) -> bool:
    """Whether a graph has not been reset."""
    try:
        graph.raw_cuda_graph()
    except RuntimeError:
        return False
    return True
