"""Pieces captured as CUDA graphs."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from gpubench.graphs.piecewise.seam import MemoryInUse

__all__ = ["CudaGraphs"]

T = TypeVar("T")


@dataclass(frozen=True)
class _Captured:
    """A CUDA graph; satisfies `Graph`."""

    graph: torch.cuda.CUDAGraph
    is_empty: bool

    def replay(self) -> None:
        self.graph.replay()

    def reset(self) -> None:
        self.graph.reset()


class CudaGraphs:
    """Captures on the current device; satisfies `Graphs`.

    torch.cuda.graph would collect garbage and empty the allocator's caches around every capture: for a deep model's
    hundreds of pieces that is minutes. `settle` does it once.
    """

    def __init__(self) -> None:
        capture = torch.cuda.graph(torch.cuda.CUDAGraph())
        assert capture.capture_stream is not None, "torch has a stream of its own for captures"
        self._stream: torch.cuda.Stream = capture.capture_stream  # one for the whole process, so that workspaces last

    def new_pool(self) -> Any:
        return torch.cuda.graph_pool_handle()

    def wait(self) -> None:
        torch.cuda.synchronize()

    def settle(self) -> None:
        torch.cuda.synchronize()
        gc.collect()
        torch.cuda.empty_cache()

    def warm_up(self, run: Callable[[], T]) -> T:
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            found = run()
        torch.cuda.current_stream().wait_stream(self._stream)
        return found

    def capture(self, run: Callable[[], T], pool: Any) -> tuple[_Captured, T]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(self._stream), warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            graph.capture_begin(pool=pool)
            try:
                found = run()
            finally:
                graph.capture_end()
        of_emptiness = [warning for warning in said if "graph is empty" in str(warning.message).lower()]
        for warning in said:
            if warning not in of_emptiness:
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        return _Captured(graph, is_empty=bool(of_emptiness)), found

    def borrow(self, value: Tensor, owner: object) -> Tensor:
        if value.numel() == 0:
            return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=value.device)
        extent = 1 + sum((size - 1) * step for size, step in zip(value.shape, value.stride(), strict=True))
        memory = _Memory(value.data_ptr(), extent * value.element_size(), owner)
        flat: Tensor = torch.as_tensor(memory, device=value.device)
        return flat.view(value.dtype).as_strided(value.shape, value.stride())

    def device_bytes(self) -> int:
        free, total = torch.cuda.mem_get_info()
        return total - free

    def memory(self, pool: Any) -> MemoryInUse:
        segments = torch.cuda.memory_snapshot()  # type: ignore[no-untyped-call]
        return MemoryInUse(
            self.device_bytes(),
            torch.cuda.memory_reserved(),
            torch.cuda.memory_allocated(),
            sum(segment["total_size"] for segment in segments if tuple(segment["segment_pool_id"]) == tuple(pool)),
        )


class _Memory:
    """An address for torch to make a tensor of; the tensor keeps it, and it keeps the owner of the memory."""

    def __init__(self, address: int, size_bytes: int, owner: object) -> None:
        self.owner = owner
        self.__cuda_array_interface__ = {
            "shape": (size_bytes,),
            "typestr": "|u1",
            "data": (address, False),
            "strides": None,
            "version": 2,
        }
