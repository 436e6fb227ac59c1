"""Keeps what the cells of this worker share, drops it when no later one can use it, and says who built what.

What is kept belongs to cells of one kin: those with equal values of the arguments that their workload names in
`shares`. Cells of one kin run next to each other, so that the first cell of another kin empties the shelf before it
builds anything of its own.
"""

from __future__ import annotations

import gc
import hashlib
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from gpubench.errors import UsageError
from gpubench.tensors import count_bytes, find_tensors
from gpubench.worker.device import Device

__all__ = ["WorkerShelf"]

T = TypeVar("T")


@dataclass(frozen=True)
class _Item:
    what: str
    value: Any
    size_bytes: int
    built_by: str
    """The cell's id."""
    built_in: int
    """The number of the task, for one cell's trials can be tasks of their own."""
    built_s: float


class WorkerShelf:
    """One worker's. A cell begins on it, takes from it, and ends; what a failed cell took or built stays good."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._items: dict[tuple[str, str, int], _Item] = {}
        self._taken: dict[tuple[str, str, int], _Item] = {}
        self._kin = ""
        self._cell_id = ""
        self._task = 0
        self._seed = 0

    @property
    def held_bytes(self) -> int:
        """What live tensors that are kept hold of the device's memory; 0 on a CPU, where torch doesn't count."""
        return sum(item.size_bytes for item in self._items.values()) if self._device.is_cuda else 0

    def begin(self, cell_id: str, kin: str, seed: int) -> None:
        """A cell begins. What cells of another kin have left is dropped, and so is everything if it has no kin ("")."""
        if kin != self._kin or not kin:
            self._clear()
        self._cell_id, self._kin, self._seed = cell_id, kin, seed
        self._task += 1
        self._taken = {}

    def end(self) -> None:
        """The cell is over: what nobody but itself could share is dropped."""
        self._taken = {}
        if not self._kin:
            self._clear()

    def take(self, what: str, of: object, build: Callable[[], T]) -> T:
        """As `gpubench.shared` says."""
        told = repr(of)
        if " at 0x" in told:
            raise UsageError(
                f"gpubench.shared({what!r}, …): what it depends on must tell itself apart by its repr, and this one's "
                f"changes from process to process: {told[:200]}"
            )
        key = (what, told, self._seed)
        if key not in self._items:
            self._items[key] = self._build(what, key, build)
        self._taken[key] = self._items[key]
        value: T = self._items[key].value
        return value

    def describe(self) -> list[dict[str, Any]]:
        """For the record of the cell that has begun: what it took, how large it is, and who built it."""
        return [{"what": item.what, "bytes": item.size_bytes, **self._origin(item)} for item in self._taken.values()]

    def _origin(self, item: _Item) -> dict[str, Any]:
        if item.built_in == self._task:
            return {"built_s": round(item.built_s, 3)}
        return {"from": item.built_by}

    def _build(self, what: str, key: tuple[str, str, int], build: Callable[[], Any]) -> _Item:
        allocated, held = self._device.allocated_bytes(), self.held_bytes
        began = time.perf_counter()
        with _generators_of(self._device, key):
            value = build()
        self._device.synchronize()
        built_s = time.perf_counter() - began
        if self._device.is_cuda:  # less what was built for it, which is there by itself
            size = self._device.allocated_bytes() - allocated - (self.held_bytes - held)
        else:
            size = count_bytes(find_tensors(value))
        return _Item(what, value, size, self._cell_id, self._task, built_s)

    def _clear(self) -> None:
        if not self._items:
            return
        values = [item.value for item in self._items.values()]
        self._items, self._taken = {}, {}
        for value in values:
            close = getattr(value, "close", None)
            if callable(close):
                close()
        del values, value, close
        gc.collect()
        if self._device.is_cuda:
            torch.cuda.empty_cache()  # what comes next is large too, and cut otherwise


@contextmanager
def _generators_of(device: Device, key: object) -> Iterator[None]:
    """Seed all generators from a key, and put them back to where they were."""
    host, python = torch.default_generator.get_state(), random.getstate()
    cuda = torch.cuda.get_rng_state() if device.is_cuda else None
    seed = int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:4])
    device.seed(seed)
    random.seed(seed)
    try:
        yield
    finally:
        torch.default_generator.set_state(host)
        random.setstate(python)
        if cuda is not None:
            torch.cuda.set_rng_state(cuda)
