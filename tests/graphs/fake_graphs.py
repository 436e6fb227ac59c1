"""Graphs without a GPU: captures that compute nothing and replays that do, over memory that is recycled and poisoned.

As on a GPU, what runs under a capture is only recorded, with addresses: its results hold garbage until a replay. What a
capture allocates comes from an arena, the pool's, and goes back there when the last tensor on it is dropped; the next
allocation gets it. A replay first poisons all that was free when its capture began, and later each block at the point
where the capture let go of it: whoever reads memory that isn't his any more reads NaN, or an absurd integer.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from gpubench.graphs.piecewise.seam import MemoryInUse

__all__ = ["FakeGraphs"]

T = TypeVar("T")

ALIGNMENT = 64
POISON = 0xFF
"""Repeated, a NaN in every float type and −1 in every integer."""


class Arena:
    """A pool: blocks by address, first fit, grown at the end."""

    def __init__(self, size_bytes: int = 1 << 24) -> None:
        self._memory = ctypes.create_string_buffer(size_bytes)
        self._base = ctypes.addressof(self._memory)
        self._base += -self._base % ALIGNMENT
        self._end = self._base + size_bytes - ALIGNMENT
        self.free: list[tuple[int, int]] = []
        """Blocks that were used and aren't: start and end."""
        self.high = self._base
        self.live = 0
        self.tape: list[Callable[[], None]] | None = None
        """Of the capture under way."""

    @property
    def reserved(self) -> int:
        return self.high - self._base

    def allocate(self, size_bytes: int) -> Tensor:
        """Poisoned bytes; they are free again when no tensor is on them."""
        size_bytes += -size_bytes % ALIGNMENT
        start = self._take(size_bytes)
        self.live += size_bytes
        poison(start, start + size_bytes)
        block = (ctypes.c_uint8 * size_bytes).from_address(start)
        weakref.finalize(block, self._give_back, start, start + size_bytes)
        return torch.frombuffer(block, dtype=torch.uint8)

    def holds(self, address: int) -> bool:
        return self._base <= address < self._end

    def _take(self, size_bytes: int) -> int:
        for place, (start, end) in enumerate(self.free):
            if end - start >= size_bytes:
                self.free[place : place + 1] = [(start + size_bytes, end)] if end - start > size_bytes else []
                return start
        start, self.high = self.high, self.high + size_bytes
        assert self.high <= self._end, "the arena is large enough for tiny models"
        return start

    def _give_back(self, start: int, end: int) -> None:
        self.live -= end - start
        poison(start, end)
        if self.tape is not None:
            self.tape.append(lambda: poison(start, end))
        merged: list[tuple[int, int]] = []
        for first, last in sorted([*self.free, (start, end)]):
            is_next = bool(merged) and merged[-1][1] == first
            merged.append((merged.pop()[0], last) if is_next else (first, last))
        self.free = merged


def poison(start: int, end: int) -> None:
    ctypes.memset(start, POISON, end - start)


def on_address(value: Tensor, owner: object = None) -> Tensor:
    """The same memory as a tensor that keeps nothing alive but its owner."""
    if value.numel() == 0:
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="cpu")
    extent = 1 + sum((size - 1) * step for size, step in zip(value.shape, value.stride(), strict=True))
    block = (ctypes.c_uint8 * (extent * value.element_size())).from_address(value.data_ptr())
    block.owner = owner  # as long as a tensor is on it
    return torch.frombuffer(block, dtype=value.dtype).as_strided(value.shape, value.stride())


@dataclass
class FakeGraph:
    """A tape."""

    pool: Arena | None
    """None once it is reset."""
    tape: list[Callable[[], None]] = field(default_factory=list)
    num_kernels: int = 0

    @property
    def was_reset(self) -> bool:
        return self.pool is None

    @property
    def is_empty(self) -> bool:
        return self.num_kernels == 0

    def replay(self) -> None:
        assert not self.was_reset, "a graph that was reset isn't replayed"
        for entry in self.tape:
            entry()

    def reset(self) -> None:
        self.pool = None


class _Recording(TorchDispatchMode):
    """Records what runs, and runs nothing that computes."""

    def __init__(self, graph: FakeGraph, arena: Arena) -> None:
        super().__init__()
        self._graph, self._arena = graph, arena

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.item.default):
            raise RuntimeError("operation not permitted when stream is capturing: it waits for the GPU")
        returns = [value.alias_info for value in func._schema.returns]
        if func.is_view:
            return func(*args, **kwargs)
        written = [info is not None and info.is_write for info in returns]
        if func._schema.is_mutable:
            self._record(func, args, kwargs, None)
            assert all(written), f"{func}: returns what it writes"
            return _written(func, args, kwargs)
        made = pytree.tree_map_only(Tensor, self._allocate, func(*_meta(args), **_meta(kwargs)))
        if "empty" not in func._schema.name:
            self._record(func, args, kwargs, pytree.tree_map_only(Tensor, on_address, made))
        return made

    def _allocate(self, like: Tensor) -> Tensor:
        extent = 1 + sum((size - 1) * step for size, step in zip(like.shape, like.stride(), strict=True))
        if like.numel() == 0:
            return torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device="cpu")
        block = self._arena.allocate(extent * like.element_size())[: extent * like.element_size()]
        return block.view(like.dtype).as_strided(like.shape, like.stride())

    def _record(self, func: Any, args: Any, kwargs: Any, outputs: Any) -> None:
        args, kwargs = pytree.tree_map_only(Tensor, self._forget, (args, kwargs))

        def run() -> None:
            found = func(*args, **kwargs)
            if outputs is not None:
                for out, value in zip(pytree.tree_leaves(outputs), pytree.tree_leaves(found), strict=True):
                    if isinstance(out, Tensor):
                        out.copy_(value)

        self._graph.tape.append(run)
        self._graph.num_kernels += 1

    def _forget(self, value: Tensor) -> Tensor:
        """A tape knows addresses; only memory outside of the arena is kept, so that a mistake doesn't end the tests."""
        return on_address(value) if self._arena.holds(value.data_ptr()) else value


def _meta(values: Any) -> Any:
    def to_meta(value: Any) -> Any:
        if isinstance(value, Tensor):
            return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
        return torch.device("meta") if isinstance(value, torch.device) else value

    return pytree.tree_map(to_meta, values)


def _written(func: Any, args: Any, kwargs: Any) -> Any:
    """What an operator that writes into its arguments returns: those."""
    names = {info.name: value for info, value in zip(func._schema.arguments, args, strict=False)} | kwargs
    found = [
        names[argument.name]
        for returned in func._schema.returns
        for argument in func._schema.arguments
        if argument.alias_info is not None and argument.alias_info.before_set == returned.alias_info.before_set
    ]
    return found[0] if len(found) == 1 else tuple(found) or None


class FakeGraphs:
    """Satisfies `Graphs` on a CPU."""

    def __init__(self) -> None:
        self.pools: list[Arena] = []
        self.captured: list[FakeGraph] = []
        self.outside = 0
        """Bytes that are taken elsewhere."""

    def new_pool(self) -> Arena:
        self.pools.append(Arena())
        return self.pools[-1]

    def wait(self) -> None:
        pass

    def settle(self) -> None:
        pass

    def warm_up(self, run: Callable[[], T]) -> T:
        return run()

    def capture(self, run: Callable[[], T], pool: Arena) -> tuple[FakeGraph, T]:
        graph = FakeGraph(pool)
        self.captured.append(graph)
        graph.tape += [lambda start=start, end=end: poison(start, end) for start, end in pool.free]
        pool.tape = graph.tape
        try:
            with torch.no_grad(), _Recording(graph, pool):
                found = run()
        finally:
            pool.tape = None
        return graph, found

    def borrow(self, value: Tensor, owner: object) -> Tensor:
        return on_address(value, owner)

    def device_bytes(self) -> int:
        return sum(arena.reserved for arena in self.pools if any(g.pool is arena for g in self.captured))

    def memory(self, pool: Arena) -> MemoryInUse:
        reserved = self.device_bytes()
        return MemoryInUse(reserved, reserved, sum(arena.live for arena in self.pools), pool.reserved)
